"""Every chapter's lesson cells run, in order, in as few processes as their imports allow."""
import json, os, subprocess, sys
from pathlib import Path

import pytest
from conftest import ROOT

CHAPTERS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
GROUPS = {"without torch": [f for f in CHAPTERS if f.name < "17"], "machinery": [f for f in CHAPTERS if "17" <= f.name < "23"],
          "models": [f for f in CHAPTERS if "23" <= f.name < "50"], "evidence and use": [f for f in CHAPTERS if f.name >= "50"]}
RUN = """
import sys, time
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
for name in sys.argv[1:]:
    passed, seconds = test_nb(Path(name), skip_flags=get_config().tst_flags.split(), basepath=get_config().config_path)
    print(f"{Path(name).name} {'passed' if passed else 'FAILED'} {seconds:.1f} s", flush=True)
    if not passed: sys.exit(1)
"""


@pytest.mark.parametrize("group", GROUPS)
def test_lessons(group):
    "A failing cell's traceback is in the message; a chapter that hangs is the one after the last that passed."
    if not GROUPS[group]: pytest.skip("no chapters yet")
    env = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    try: done = subprocess.run([sys.executable, "-c", RUN, *map(str, GROUPS[group])], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired as error: pytest.fail(f"over 900 s; finished: {(error.stdout or b'').decode()}")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
