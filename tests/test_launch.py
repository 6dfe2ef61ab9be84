"""The set-up cell behind the Colab button and Binder's set-up, run for real where the book has never been.
They take minutes and a gigabyte or two, so they wait to be asked: UNIFASHION_SLOW=1."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / ".site"))
from chapters import read
from launch import launch_copy, settings_of

from unifashion.ground.circumstances import git

slow = pytest.mark.skipif(
    not os.environ.get("UNIFASHION_SLOW"), reason="makes an environment of its own: set UNIFASHION_SLOW=1"
)
clone = pytest.mark.skipif(git(ROOT, "rev-parse", "HEAD") is None, reason="this is no clone to clone from")
PAGE = "nbs/1_wardrobe/14_drawing.ipynb"
EXECUTE = """\
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture
def elsewhere(tmp_path):
    "What a process sees that has neither this repository nor this environment."
    (tmp_path / "home").mkdir()
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "JUPYTER_PATH", "UNIFASHION_CACHE", "UNIFASHION_DATA")
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    return env | {"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path / 'env' / 'bin'}:{env['PATH']}"}


@pytest.fixture
def origin(tmp_path):
    "This repository as the web would have it, with a branch `trunk`."
    subprocess.run(["git", "clone", "-q", ROOT, tmp_path / "origin"], check=True)
    subprocess.run(["git", "-C", tmp_path / "origin", "checkout", "-q", "-B", "trunk"], check=True)
    return tmp_path / "origin"


def fresh_python(folder, env):
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, env=env)
    return folder / "bin" / "python"


def install(python, *words):
    "As `make` installs, with uv where it can be had."
    spec = importlib.util.spec_from_file_location("set_up", ROOT / ".setup.py")
    set_up = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(set_up)
    code, said = set_up.installer(python)(*words)
    assert code == 0, said[-2000:]


@slow
@clone
def test_a_chapter_opened_on_colab_runs(tmp_path, elsewhere, origin):
    """As on Colab, where most packages are there and the book is not: the copy of a chapter, in an empty
    folder, with nothing but the address changed to that of a clone."""
    settings = settings_of(ROOT)
    python = fresh_python(tmp_path / "env", elsewhere)
    install(python, *settings["requirements"].split())
    settings |= {"git_url": origin.as_uri(), "branch": "trunk"}
    opened = tmp_path / "content" / "chapter.ipynb"
    opened.parent.mkdir()
    opened.write_text(json.dumps(launch_copy(read(ROOT / PAGE), PAGE, settings, ROOT)))
    words = [python, "-c", EXECUTE, opened]
    done = subprocess.run(words, cwd=opened.parent, env=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pictures = [out for cell in read(opened)["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert any("image/png" in out["data"] for out in pictures)
    where = [python, "-c", "import unifashion; print(unifashion.__file__)"]
    found = subprocess.run(where, cwd=opened.parent, env=elsewhere, capture_output=True, text=True).stdout
    assert found.startswith(str(tmp_path / "home" / "unifashion-book")), "the book's own clone, installed"


@slow
@clone
def test_binders_set_up_makes_the_package_importable_beside_a_chapter(tmp_path, elsewhere, origin):
    python = fresh_python(tmp_path / "env", elsewhere)
    done = subprocess.run([".binder/postBuild"], cwd=origin, env=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    code = "import nbdev, torch, unifashion.models.losses as losses; print(losses.__file__)"
    beside = origin / "nbs" / "5_models"
    found = subprocess.run([python, "-c", code], cwd=beside, env=elsewhere, capture_output=True, text=True)
    assert found.stdout.startswith(str(origin)), found.stderr[-1000:]
