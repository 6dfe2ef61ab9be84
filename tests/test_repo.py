"""The house rules: layout, what is generated equals its source, chapters' anatomy, sizes, imports, pins."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import CHAPTERS, REPORTS, ROOMS, ROOT, WINGS

from unifashion.ground.circumstances import git

TOP = {
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "Snakefile",
    "settings.ini",
    "setup.py",
    "pyproject.toml",
    "environment.yml",
    "nbs",
    "unifashion",
    "data",
    "outputs",
    "tests",
}
HEAVY = ("torch", "transformers", "diffusers")
# drawn from the modules themselves, timed, weighed or asked on the spot
LIVE = ("figure2_3_architecture", "efficiency", "garment_lookup", "memory_curve")


def tracked():
    names = git(ROOT, "ls-files", "-z")
    if names is None:
        pytest.skip("git is absent, or does not know this folder as a repository of its own")
    return [name for name in names.split("\0") if name and (ROOT / name).exists()]


def cells(path, kind="code"):
    return [
        ("".join(c["source"]), c)
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == kind
    ]


def module_of(path):
    "The module that a chapter exports, 'models.tower'."
    return re.search(r"#\| *default_exp +([\w.]+)", "\n".join(source for source, _ in cells(path)))[1]


def modules_of(package):
    "The modules of a package tree, without what nbdev adds."
    found = {path.relative_to(package).with_suffix("") for path in package.rglob("*.py")}
    return {".".join(path.parts) for path in found if path.name not in ("__init__", "_modidx")}


def code_of(source):
    try:
        return ast.parse(
            "\n".join("" if line.startswith(("%", "!")) else line for line in source.split("\n"))
        )
    except SyntaxError as error:
        raise AssertionError(f"{error.msg} in the cell\n{source}") from None


def imports(source):
    "Full names of the modules that a cell imports."
    names = set()
    for node in ast.walk(code_of(source)):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def test_the_root_holds_the_agreed_names_and_no_others():
    top = {name.split("/")[0] for name in tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP
    assert not {name for name in TOP if not (ROOT / name).exists()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The notebooks, the settings and nothing that is generated."
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "nbs", root / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "settings.ini", root)
    return root


def differing_files(fresh, here):
    "Names of Python files that one package tree has and the other lacks or has otherwise, folders and all."
    texts = [
        {path.relative_to(root): path.read_text() for path in root.rglob("*.py")} for root in (fresh, here)
    ]
    return sorted(
        str(name) for name in texts[0].keys() | texts[1].keys() if texts[0].get(name) != texts[1].get(name)
    )


def run(copy, code):
    return subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, timeout=120)


def test_the_package_is_what_the_notebooks_export(copy):
    done = run(copy, "from nbdev.doclinks import nbdev_export; nbdev_export()")
    assert done.returncode == 0, done.stderr
    assert not differing_files(copy / "unifashion", ROOT / "unifashion"), (
        "export them, or remove what no notebook exports: make book"
    )


def test_the_notebooks_are_clean(copy):
    done = run(copy, "from nbdev.clean import nbdev_clean; nbdev_clean()")
    assert done.returncode == 0, done.stderr
    assert CHAPTERS and REPORTS
    changed = [
        p.name for p in CHAPTERS + REPORTS if p.read_bytes() != (copy / p.relative_to(ROOT)).read_bytes()
    ]
    assert not changed, "clean them: make book"


def test_the_readme_is_what_the_index_says(tmp_path):
    done = subprocess.run(
        ["make", "readme", f"README={tmp_path / 'README.md'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (ROOT / "README.md").read_text() == (tmp_path / "README.md").read_text(), (
        "write it again: make book"
    )
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text):
        target = next(filter(None, link))
        assert target.startswith("http") or (ROOT / target).exists(), (
            f"README links {target}, which does not exist"
        )
    assert "make reproduce" in text and "make test" in text


def code_lines(source):
    "Lines of a cell that are neither blank nor a directive."
    return len([line for line in source.split("\n") if line.strip() and not line.startswith("#|")])


def is_table(source):
    "Whether a cell holds nothing but data."
    return all(isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) for node in code_of(source).body)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapters_anatomy(path):
    code, prose = cells(path), "\n".join(source for source, _ in cells(path, "markdown"))
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    assert first["cell_type"] == "markdown" and re.match(r"# .+\n+> .+", "".join(first["source"])), (
        "first cell: '# Name' and '> one line'"
    )
    for heading in ("## Departures from the paper", "## Summary", "## Exercises"):
        assert heading in prose, f"no {heading!r}"
    assert "nbdev_export()" in code[-1][0] and "#| hide" in code[-1][0], "last cell: hidden nbdev_export()"
    exported = [source for source, _ in code if re.search(r"^#\| *exports?\b", source, re.M)]
    sizes = {source: code_lines(source) for source in exported}
    tables = [source for source in exported if is_table(source)]  # a row a line: long, and easy to read
    total = sum(size for source, size in sizes.items() if source not in tables)
    assert total <= 300, f"{total} exported lines, tables of data left out: split the chapter"
    for source, size in sizes.items():
        single = len(code_of(source).body) == 1  # one class, or one function
        assert source in tables or size <= (55 if single else 40), f"{size} lines: {source[:90]!r}"
    row = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        row = row + 1 if cell["cell_type"] == "code" else 0
        assert row <= 3, f"more than three code cells in a row at: {''.join(cell['source'])[:60]!r}"
    outputs = [output for _, cell in code for output in cell["outputs"]]
    assert len(json.dumps(outputs)) <= 300 << 10, f"outputs of {len(json.dumps(outputs)) >> 10} KiB"
    assert any(
        "image/png" in output.get("data", {}) or "image/svg+xml" in output.get("data", {})
        for output in outputs
    ), "no picture"
    assert not [output for output in outputs if output["output_type"] == "error"]


def chapter_faults(chapters):
    "What is wrong with the names of chapters and with what they import; `chapters` are paths in wings."
    home = {module_of(path): path for path in chapters}
    faults = [
        f"{path.parent.name}/{path.stem} exports {module}"
        for module, path in home.items()
        if module != expected_module(path)
    ]
    for path in chapters:
        for name in sorted(set().union(*(imports(source) for source, _ in cells(path)))):
            name = name.removeprefix("unifashion.")
            if name in home and name != module_of(path) and height(home[name]) >= height(path):
                faults.append(f"{module_of(path)} imports {name}, which stands higher")
    return faults


def expected_module(path):
    """The module that a chapter's place asks for: 5_models/10_tower.ipynb exports models.tower,
    app.ipynb exports app, package.ipynb the package itself."""
    if path.parent.name == "nbs":
        return {"package": "__init__"}.get(path.stem, path.stem)
    return f"{path.parent.name[2:]}.{path.stem.split('_', 1)[1]}"


def height(path):
    "Where a chapter stands: wing, then number; those at the root are highest, in an order of their own."
    if path.parent.name == "nbs":
        return "9", str(ROOMS.index(path.stem))
    return path.parent.name, path.stem


def test_the_chapters_are_all_there():
    names = modules_of(ROOT / "unifashion") | {"__init__"}
    assert len(CHAPTERS) >= 85 and {module_of(path) for path in CHAPTERS} == names
    assert len(CHAPTERS) == len(names), "two chapters export one module"
    in_wings = {path.parent.name for path in CHAPTERS} - {"nbs"}
    assert (
        in_wings == {path.name for path in (ROOT / "nbs").iterdir() if path.name[0].isdigit()} == set(WINGS)
    )


def test_chapters_import_only_what_stands_lower():
    assert not chapter_faults(CHAPTERS)


def planted(folder, **chapters):
    "Chapters of one import each: wing/number_name -> what is imported."
    paths = []
    for name, line in chapters.items():
        wing, stem = name.split("__")
        path = folder / f"{'0123456789'[WING_NAMES.index(wing)]}_{wing}" / f"{stem[1:]}.ipynb"
        path.parent.mkdir(exist_ok=True)
        source = [f"#| default_exp {wing}.{stem[4:]}", line]
        path.write_text(
            json.dumps({"cells": [{"cell_type": "code", "source": s, "outputs": []} for s in source]})
        )
        paths.append(path)
    return sorted(paths)


WING_NAMES = [wing[2:] for wing in WINGS]


@pytest.mark.parametrize(
    "line",
    [
        "from unifashion.models.tower import x",
        "import unifashion.models.tower as t",
        "from unifashion.models import tower",
        "def later():\n    from unifashion.models.tower import x",
    ],
)
def test_an_import_that_points_up_is_found(tmp_path, line):
    sound = {"ground___01_core": "import json", "models___02_tower": "from unifashion.ground.core import x"}
    assert not chapter_faults(planted(tmp_path, **sound))
    assert chapter_faults(planted(tmp_path, **sound, data___01_stores=line)) == [
        "data.stores imports models.tower, which stands higher"
    ]
    assert chapter_faults(planted(tmp_path, **sound, models___01_recipe=line)) == [
        "models.recipe imports models.tower, which stands higher"
    ]


def test_a_chapter_under_another_name_is_found(tmp_path):
    path = planted(tmp_path, models___02_tower="import json")[0]
    path.rename(path.with_name("02_towers.ipynb"))
    assert chapter_faults([path.with_name("02_towers.ipynb")]) == ["5_models/02_towers exports models.tower"]


def test_a_package_that_is_not_what_the_notebooks_export_is_found(tmp_path):
    for root in ("fresh", "here"):
        shutil.copytree(ROOT / "unifashion", tmp_path / root, ignore=shutil.ignore_patterns("__pycache__"))
    fresh, here = tmp_path / "fresh", tmp_path / "here"
    assert not differing_files(fresh, here)
    (here / "models" / "tower.py").write_text("")
    (here / "models" / "left_behind.py").write_text("")
    (fresh / "ground" / "new.py").write_text("")
    assert differing_files(fresh, here) == ["ground/new.py", "models/left_behind.py", "models/tower.py"]


def heavy_modules(modules, root=ROOT):
    """The first of the modules that brings in torch or what stands on it, with what it brought;
    None where none does."""
    code = (
        "import importlib, json, sys\n" + f"for name in {modules!r}:\n    importlib.import_module(name)\n"
        f"    found = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n    if found: print(name, "
        "*found); break\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-800:]
    return done.stdout.strip() or None


def test_wings_0_to_4_bring_in_no_torch(tmp_path):
    modules = [f"unifashion.{module_of(path)}" for path in CHAPTERS if path.parent.name < "5"]
    assert len(modules) >= 50 and heavy_modules(modules) is None
    shutil.copytree(
        ROOT / "unifashion", tmp_path / "unifashion", ignore=shutil.ignore_patterns("__pycache__")
    )
    with open(tmp_path / "unifashion" / "data" / "stores.py", "a") as file:
        file.write("\nimport torch\n")
    assert heavy_modules(modules, tmp_path).startswith("unifashion.data.stores torch"), (
        "a planted import is found"
    )


@pytest.mark.parametrize(
    "path", [p for p in REPORTS if not p.stem.startswith(("train_", "tune_", *LIVE))], ids=lambda p: p.stem
)
def test_tables_and_figures_bring_in_no_torch(path):
    lines = [
        ast.unparse(node)
        for source, _ in cells(path)
        for node in code_of(source).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    code = (
        "import sys\n"
        + "\n".join(lines)
        + f"\nloaded = [h for h in {HEAVY} if h in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    for record in (ROOT / "outputs" / "published").glob(f"*/{path.stem}/run.json"):
        assert json.loads(record.read_text())["loaded"] == [], (
            f"{record.parent} was made by a run that loaded them"
        )


@pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.stem)
def test_a_report_is_short_defines_nothing_and_has_no_outputs(path):
    from unifashion.ground.code_digests import chapters_of
    from unifashion.ground.keys import read_header

    everything = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert len(everything) <= 25 and not [c for c in everything if c.get("outputs")]
    for source, _ in cells(path):
        assert not [
            n
            for n in ast.walk(code_of(source))
            if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
        ], "a definition: a chapter is missing"
    header = read_header(path)
    assert {"profile", "full"} <= set(header.parameters)
    if "evidence.claims" in chapters_of(header.modules):
        assert "data/reported" in header.data, "it reads the papers' numbers: data=('data/reported', ...)"
    for name in header.data:
        assert name.startswith("$UNIFASHION_DATA/") or (ROOT / name).exists()
    assert (path.parent / ".notest").exists()


def test_shipped_parts_are_files_and_re_run_nothing():
    from unifashion.ground.keys import plan

    for profile, trains in (("smoke", True), ("mini", False), ("open", False)):
        node = next(n for n in plan(profile, only=("train_pretrain",)) if n.header.report == "train_pretrain")
        assert [up.header.report for up in node.after] == ["train_foundations"] and [
            up.header.report for up in node.reads
        ] == ["train_foundations"] * trains


def test_the_reports_make_a_plan():
    from unifashion.ground.keys import plan

    asked = {path.stem for path in REPORTS if path.stem.startswith("tune_")}  # run when named alone
    assert {node.header.report for node in plan("smoke")} == {path.stem for path in REPORTS} - asked
    for name in asked:
        assert name in {node.header.report for node in plan("smoke", only=(name,))}


def test_outputs_of_the_book_are_small():
    assert sum(len(json.dumps(c["outputs"])) for path in CHAPTERS for _, c in cells(path)) <= 9 << 20
    for name in tracked():
        assert (ROOT / name).stat().st_size <= 16 << 20, f"{name} is too large for git"
    assert (
        sum((ROOT / name).stat().st_size for name in tracked() if name.startswith("data/foundations/"))
        <= 46 << 20
    )


@pytest.mark.skipif(
    git(ROOT, "rev-parse", "--is-shallow-repository") != "false",
    reason="git is absent, or this is no clone with its history",
)
def test_published_runs_name_commits_of_this_history():
    made = {
        record: json.loads(record.read_text())["commit"]
        for record in (ROOT / "outputs" / "published").rglob("run.json")
    }
    lost = [
        str(record.parent.relative_to(ROOT))
        for record, commit in made.items()
        if git(ROOT, "merge-base", "--is-ancestor", commit, "HEAD") is None
    ]
    assert made and not lost, lost


def test_published_runs_are_complete_and_small():
    from unifashion.ground.runs import PUBLISHED

    records = list((ROOT / "outputs" / "published").rglob("run.json"))
    assert len(records) >= 20
    for record in records:
        files = [p for p in record.parent.iterdir() if p.is_file()]
        assert (record.parent / "executed.ipynb").exists()
        for p in files:
            limit = [kib for pattern, kib in PUBLISHED.items() if p.match(pattern)]
            assert limit and p.stat().st_size <= limit[0] << 10, f"{p.relative_to(ROOT)}"


def test_links_of_published_notebooks_lead_to_chapters():
    for path in (ROOT / "outputs" / "published").rglob("executed.ipynb"):
        prose = "".join("".join(cell["source"]) for _, cell in cells(path) if cell["cell_type"] == "markdown")
        for link in re.findall(r"\]\(([\w./-]+\.ipynb)", prose):
            assert (path.parent / link).exists(), f"{path.relative_to(ROOT)} links {link}"


def test_no_file_names_a_machine():
    folders = "|".join(["work", "tmp", "farm", "root", "opt", "home", "Users"])
    path = re.compile(rf"(?<![\w.$~}}/])/(?:{folders})/\w")
    for name in tracked():
        if name.endswith((".png", ".gz", ".safetensors", ".npy")) or name == "tests/test_repo.py":
            continue
        found = path.search((ROOT / name).read_text(encoding="utf-8"))
        assert not found, f"{name} carries {found[0]!r}"


def test_environment_has_the_packages_and_satisfies_the_ranges():
    import configparser

    import yaml
    from packaging.requirements import Requirement

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pins = {
        Requirement(p).name.lower().replace("_", "-"): Requirement(p)
        for p in next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    }
    asked = (
        "torch transformers diffusers peft jupyterlab papermill nbdev open-clip-torch torchmetrics matplotlib"
    ).split()
    assert set(asked) <= set(pins) and all(str(p.specifier).startswith("==") for p in pins.values())
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    kinds = ("requirements", "dev_requirements", "demo_requirements")
    ranges = " ".join(settings["DEFAULT"][kind] for kind in kinds).split()
    for wanted in map(Requirement, ranges):
        name = wanted.name.lower().replace("_", "-")
        assert name in pins, f"environment.yml does not pin {name}"
        version = str(pins[name].specifier)[2:]
        assert wanted.specifier.contains(version), f"{name} {version} is outside {wanted.specifier}"
    installed = {name: str(pin.specifier)[2:] for name, pin in pins.items()}
    from importlib.metadata import version

    different = {n: version(n) for n in ("nbdev", "nbconvert", "papermill") if version(n) != installed[n]}
    assert not different, f"this environment has {different}: make sets one up with the pins"


def test_citation_is_readable():
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (
        citation["cff-version"] == "1.2.0"
        and citation["title"]
        and citation["authors"]
        and len(citation["references"]) == 2
    )


def test_both_torchvision_builds_are_understood():
    source = (ROOT / ".torchvision-schemas" / "torchvision_schemas.py").read_text()
    program = (
        source + "\n"
        "import sys, types\n"
        "calls = []\n"
        "class Library:\n"
        "    def __init__(self, *names): calls.append(names)\n"
        "    def define(self, schema): calls.append(schema)\n"
        'torch = types.ModuleType("torch"); torch.library = types.SimpleNamespace(Library=Library)\n'
        'sys.modules["torch"] = torch\n'
        'for torch.__version__, vision, expected in (("2.13.0+cpu", "0.28.0", 3), ("2.13.0+cpu", '
        '"0.28.0+cpu", 0), ("2.13.0+cu130", "0.28.0+cu130", 0), ("2.13.0", "0.28.0", 0)):\n'
        "    calls.clear()\n"
        '    globals()["version"] = lambda name: vision\n'
        "    declare()\n"
        "    assert len(calls) == expected, (torch.__version__, vision, calls)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
