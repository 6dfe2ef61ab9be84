# Two commands: `make reproduce` and `make test`. Each sets itself up first (.setup.py), into .venv or the active environment.
PROFILE ?= mini
README ?= README.md

# what each target takes; anything else is refused, so that no setting is ever ignored
TAKES_reproduce := PROFILE FULL SEEDS ONLY PUBLISH CORES PYTHON
TAKES_foundations := PROFILE PYTHON
TAKES_test := ONLY PYTHON
TAKES_margins := ONLY PYTHON
TAKES_readme := README PYTHON
TAKES_setup := PYTHON
TAKES_lab := PYTHON
TAKES_docs := PYTHON
TAKES_demo := CATALOGUE PROFILE PORT PYTHON
TAKES_book := PYTHON
GOALS := $(or $(MAKECMDGOALS),help)
TAKEN := $(foreach goal,$(GOALS),$(TAKES_$(goal)))
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v))
UNKNOWN := $(filter-out $(TAKEN),$(GIVEN))
$(if $(UNKNOWN),$(error unknown setting $(UNKNOWN): make $(GOALS) takes $(or $(strip $(TAKEN)),none)))
$(foreach v,FULL PUBLISH,$(if $(filter-out 1 yes true 0 no false,$($v)),$(error $v is 1 or 0; here: $($v))))
MAKEOVERRIDES =
yes = $(filter 1 yes true,$(1))

ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
ENVIRONMENT := $(or $(ACTIVE),$(CURDIR)/.venv)
BIN := $(ENVIRONMENT)/bin
# the first Python that the pins support
PYTHON ?= $(shell for p in $(if $(ACTIVE),$(BIN)/python) python3 python3.12 python3.11 python3.13; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

.PHONY: help setup reproduce test demo margins lab foundations docs book readme
help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1@/p' Makefile | while IFS=@ read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup:
	@[ -n "$(PYTHON)" ] || { echo "set-up: Python 3.11 to 3.13 is needed, and none is on the PATH (or name one: make PYTHON=/path/to/python3.12)" >&2; exit 1; }
	@"$(PYTHON)" .setup.py "$(ENVIRONMENT)"

reproduce: setup  ## every table and figure; PROFILE=smoke|mini|open|folder|paper|rehearsal FULL=1 SEEDS="0 1 2" ONLY=report PUBLISH=1 CORES=2
	@UNIFASHION_PARENT=$$PPID exec "$(BIN)/python" -m unifashion.app reproduce $(ONLY) --profile "$(PROFILE)" \
		$(if $(filter-out undefined,$(origin SEEDS)),--seeds "$(SEEDS)") \
		$(if $(call yes,$(FULL)),--full) $(if $(call yes,$(PUBLISH)),--publish) $(if $(CORES),--cores "$(CORES)")

test: setup  ## the tests: chapters, package, workflow; ONLY=part of a path or name
	@PATH="$(BIN):$$PATH" exec "$(BIN)/python" -m pytest -n 2 --dist worksteal $(if $(ONLY),--only "$(ONLY)")

demo: setup  ## a page to try the models in a browser, on this machine alone; CATALOGUE=folder PROFILE=mini PORT=7860
	@exec "$(BIN)/python" -m unifashion.app demo --profile "$(PROFILE)" \
		$(if $(CATALOGUE),--catalogue "$(CATALOGUE)") $(if $(PORT),--port "$(PORT)")

margins: setup  ## how far what the lessons and tests train is from what they claim of it; ONLY=language
	@exec "$(BIN)/python" tests/margins.py $(ONLY)

foundations: setup  ## train the drawn world's own pretrained parts anew (hours; goes on where it was stopped)
	@export UNIFASHION_PARENT=$$PPID; for report in train_foundations train_generator; do \
		"$(BIN)/python" -m unifashion.app reproduce $$report --profile "$(PROFILE)" --set train=true || exit $$?; done

# the environment's own kernel comes first; root, as in a container, has to be allowed
lab: setup  ## the notebooks in JupyterLab
	@PATH="$(BIN):$$PATH" JUPYTER_PATH="$(ENVIRONMENT)/share/jupyter:$$JUPYTER_PATH" \
		exec "$(BIN)/jupyter" lab $$([ "$$(id -u)" != 0 ] || echo --allow-root) nbs

docs: setup  ## the chapters as a site in _site
	@exec "$(BIN)/python" .site/build.py

book: setup  ## after editing notebooks: export the package, clean the notebooks, write README.md
	@echo "book: exporting unifashion/ from the notebooks, listing published runs, running nbs/index.ipynb, cleaning"
	@PATH="$(BIN):$$PATH"; JUPYTER_PATH="$(ENVIRONMENT)/share/jupyter:$$JUPYTER_PATH"; export JUPYTER_PATH; \
		nbdev_export && "$(BIN)/python" -c "from unifashion.evidence.verdicts import write_runs; write_runs()" && \
		jupyter nbconvert --log-level=CRITICAL --to notebook --execute --inplace nbs/index.ipynb && nbdev_clean
	@$(MAKE) --no-print-directory readme PYTHON="$(PYTHON)"

# the README is the index notebook's prose and outputs, its links seen from the root
readme: setup
	@echo "book: writing $(README) from nbs/index.ipynb"
	@PATH="$(BIN):$$PATH" jupyter nbconvert --log-level=ERROR --to markdown --no-input --stdout nbs/index.ipynb > "$(README).page.tmp~"
	@sed 's|](\([0-9a-z_/]*\.ipynb\)|](nbs/\1|g; s|](\([a-z]*\.md\)|](nbs/\1|g; s|](\.\./|](|g; s|src="\.\./|src="|g; s|href="\.\./|href="|g' "$(README).page.tmp~" > "$(README).tmp~" && mv "$(README).tmp~" "$(README)"; rm -f "$(README).page.tmp~"
