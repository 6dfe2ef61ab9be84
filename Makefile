# Two commands: `make reproduce` and `make test`. Each sets itself up first (.setup.py), into .venv or the active environment.
PROFILE ?= mini
README ?= README.md
KNOWN := PROFILE FULL SEEDS ONLY PUBLISH CORES PYTHON README
$(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$(if $(filter $v,$(KNOWN)),,$(error unknown setting $v; there are $(KNOWN)))))

ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
ENVIRONMENT := $(or $(ACTIVE),$(CURDIR)/.venv)
BIN := $(ENVIRONMENT)/bin
# the first Python that the pins support
PYTHON ?= $(shell for p in $(if $(ACTIVE),$(BIN)/python) python3 python3.12 python3.11 python3.13; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
yes = $(filter 1 yes true,$(1))

.PHONY: help setup reproduce test margins lab foundations docs book readme
help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1@/p' Makefile | while IFS=@ read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup:
	@[ -n "$(PYTHON)" ] || { echo "set-up: Python 3.11 to 3.13 is needed, and none is on the PATH (or name one: make PYTHON=/path/to/python3.12)" >&2; exit 1; }
	@"$(PYTHON)" .setup.py "$(ENVIRONMENT)"

reproduce: setup  ## every table and figure; PROFILE=smoke|mini|open|paper FULL=1 SEEDS="0 1 2" ONLY=report PUBLISH=1 CORES=2
	@UNIFASHION_PARENT=$$PPID exec "$(BIN)/python" -m unifashion.app reproduce $(ONLY) --profile $(PROFILE) --seeds "$(SEEDS)" \
		$(if $(call yes,$(FULL)),--full) $(if $(call yes,$(PUBLISH)),--publish) $(if $(CORES),--cores $(CORES))

test: setup  ## the tests: chapters, package, workflow
	@PATH="$(BIN):$$PATH" exec "$(BIN)/python" -m pytest -n 2 --dist worksteal

margins: setup  ## how far what the lessons and tests train is from what they claim of it; ONLY=language
	@exec "$(BIN)/python" tests/margins.py $(ONLY)

foundations: setup  ## train the drawn world's own pretrained parts anew (hours; goes on where it was stopped)
	@UNIFASHION_PARENT=$$PPID exec "$(BIN)/python" -m unifashion.app reproduce train_foundations --profile $(PROFILE) --set train=true

lab: setup  ## the notebooks in JupyterLab
	@PATH="$(BIN):$$PATH" exec "$(BIN)/jupyter" lab nbs

docs: setup  ## the chapters as a site in _site
	@exec "$(BIN)/python" .site/build.py

book: setup  ## after editing notebooks: export the package, clean the notebooks, write README.md
	@PATH="$(BIN):$$PATH"; nbdev_export && nbdev_clean && $(MAKE) --no-print-directory readme

# the README is the index notebook's prose and outputs, its links seen from the root
readme: setup
	@PATH="$(BIN):$$PATH" jupyter nbconvert --log-level=ERROR --to markdown --no-input --stdout nbs/index.ipynb > "$(README).page.tmp~"
	@sed 's|](\([0-9a-z_/]*\.ipynb\)|](nbs/\1|g; s|](\.\./|](|g; s|src="\.\./|src="|g; s|href="\.\./|href="|g' "$(README).page.tmp~" > "$(README).tmp~" && mv "$(README).tmp~" "$(README)"; rm -f "$(README).page.tmp~"
