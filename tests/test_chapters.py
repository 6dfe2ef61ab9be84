"""Every chapter's lesson cells run, in order, in as few processes as their imports allow."""

import os
import subprocess
import sys

import pytest
from conftest import CHAPTERS, ROOT

GROUPS = {
    "ground to data": [path for path in CHAPTERS if path.parent.name < "5"],
    "models": [path for path in CHAPTERS if path.parent.name == "5_models"],
    "unified and rag": [path for path in CHAPTERS if "6" <= path.parent.name < "8"],
    "evidence": [path for path in CHAPTERS if path.parent.name == "8_evidence" and path.name < "35"],
    "costs and use": [path for path in CHAPTERS if path.parent.name >= "8" and path.name >= "35"],
}
RUN = (
    "\n"
    "import sys, time\n"
    "from pathlib import Path\n"
    "from nbdev.config import get_config\n"
    "from nbdev.test import test_nb\n"
    "for name in sys.argv[1:]:\n"
    "    passed, seconds = test_nb(Path(name), skip_flags=get_config().tst_flags.split(), "
    "basepath=get_config().config_path)\n"
    "    print(f\"{Path(name).stem} {'passed' if passed else 'FAILED'} {seconds:.1f} s\", flush=True)\n"
    "    if not passed: sys.exit(1)\n"
)


def test_every_chapter_is_in_one_group():
    assert sorted(path for group in GROUPS.values() for path in group) == CHAPTERS


@pytest.mark.parametrize("group", GROUPS)
def test_lessons(group):
    """A failing cell's traceback is in the message;
    a chapter that hangs is the one after the last that passed."""
    assert GROUPS[group], "no chapters: the pattern that finds them is wrong"
    env = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *map(str, GROUPS[group])],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"over 900 s; finished: {(error.stdout or b'').decode()}")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
