"""Toy repositories: this one's package and workflow around reports of a few lines."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("package", "own_commands", "demo_door", "demo_models", "demo_desk", "demo", "app")  # highest last
AT_THE_ROOT = [ROOT / "nbs" / f"{name}.ipynb" for name in ROOMS]
CHAPTERS = sorted([*(ROOT / "nbs").glob("[0-9]_*/[0-9]*.ipynb"), *AT_THE_ROOT])
REPORTS = sorted((ROOT / "nbs" / "reports").glob("*.ipynb"))
WINGS = ("0_ground", "1_wardrobe", "2_people", "3_shop", "4_data", "5_models", "6_unified", "7_rag",
         "8_evidence")
KERNEL = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}


def pytest_configure(config):
    """A cache of the session's own, shared by its workers:
    nothing of an earlier run is reused, nothing is left behind. Tiny tensors take one thread a worker:
    two workers with two each would wait for one another."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not hasattr(config, "workerinput"):
        config.cache_of_session = tempfile.TemporaryDirectory(
            prefix="unifashion-tests-", ignore_cleanup_errors=True
        )
        os.environ["UNIFASHION_CACHE"] = config.cache_of_session.name


def pytest_unconfigure(config):
    if hasattr(config, "cache_of_session"):
        config.cache_of_session.cleanup()


def pytest_addoption(parser):
    parser.addoption("--only", default="", help="run the tests whose path or name contains this")


LONG = "test_same_bytes.py", "test_lessons[", "test_the_whole_site_is_built"  # minutes each


def dealt(items, workers):
    "The long ones in turn at the head of each worker's share, which xdist cuts out in one piece."
    long = [item for name in LONG for item in items if name in item.nodeid]
    rest = [item for item in items if item not in long]
    order = []
    for number in range(workers):
        hand = long[number::workers]
        few = len(items) // workers - len(hand)
        order += hand + rest[:few]
        rest = rest[few:]
    return order + rest


def pytest_collection_modifyitems(config, items):
    "Those that `--only` names, so dealt that workers end at about the same time."
    only = config.getoption("only").lower()
    left = [item for item in items if only not in item.nodeid.lower()]
    items[:] = [item for item in items if only in item.nodeid.lower()]
    config.hook.pytest_deselected(items=left)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    items[:] = dealt(items, workers) if len(items) > 100 else items


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and config.getoption("only"):
        terminalreporter.write_line(f"no test's path or name contains {config.getoption('only')!r}")


def write_report(
    folder, name, *lines, sections=("world",), after=(), data=(), seeds="seeds", prose="", head=""
):
    "A report notebook of a few code cells; `seeds` is 'seed', 'seeds' or ''."
    parameters = {"seed": "seed: int = 0\n", "seeds": 'seeds: str = "0"\n', "": ""}[seeds]
    parameters = f'profile: str = "smoke"\n{parameters}full: bool = False'
    given = f"{seeds}={seeds}, " if seeds else ""
    begin = (
        f"{head}\nfrom unifashion.ground.runs import begin\n"
        f'run = begin("{name}", profile=profile, {given}full=full, sections={sections!r}, after={after!r}, '
        f"data={data!r})"
    )
    cells = [{"cell_type": "markdown", "id": f"{name}-prose", "metadata": {}, "source": f"# {name}\n{prose}"}]
    for i, source in enumerate([parameters, begin, *lines, "run.finish();"]):
        cells.append(
            {
                "cell_type": "code",
                "id": f"{name}-{i}"[:64],
                "metadata": {"tags": ["parameters"]} if i == 0 else {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
        )
    path = Path(folder) / "nbs" / "reports" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A repository of its own: a copy of the package and the workflow, no reports yet;
    the working folder of the test."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "unifashion", root / "unifashion", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, root)
    (root / "nbs" / "reports").mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.delenv("UNIFASHION_PARENT", raising=False)
    return root
