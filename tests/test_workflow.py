"""The workflow from the outside: what runs, what it says, what a kill leaves behind. Reports of a few
lines in a repository of their own."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from conftest import ROOT, write_report
from PIL import Image

REPRODUCE = [sys.executable, "-m", "unifashion.app", "reproduce", "--profile", "smoke"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def reproduce(*words, **options):
    done = subprocess.run([*REPRODUCE, *words], capture_output=True, text=True, timeout=240, **options)
    return done.returncode, done.stdout, done.stderr


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds, what):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def test_a_failure_is_named_and_only_what_failed_runs_again(toy):
    write_report(
        toy,
        "train_toy",
        "run.arrays('s', {'s': __import__('numpy').ones(3)})",
        "print(run.folder)",
        seeds="seed",
    )
    write_report(
        toy, "figure_dies", "x = 1", "import os; os._exit(9)  # as the system does when memory is short"
    )
    write_report(
        toy,
        "table_toy",
        "rows = 0",
        "run.table([{'row': 'ours', 'metric': 'R@1', 'value': 1 / rows, 'status': 'not comparable'}])",
        after=("train_toy",),
    )
    code, out, err = reproduce()
    assert code == 1 and "3 of 3 reports to run" in out and "not finished: figure_dies, table_toy" in err
    message = out + err
    assert (
        "table_toy failed in cell 5 (run.table(" in message
        and "ZeroDivisionError: division by zero" in message
    )
    assert (
        "notebook: outputs/runs/smoke/core/table_toy/failed.ipynb" in message
        and Path("outputs/runs/smoke/core/table_toy/failed.ipynb").exists()
    )
    assert "figure_dies failed in cell 5 (import os; os._exit(9)" in message and "out of memory" in message
    assert "Traceback" not in err and "  train_toy seed=0 " in out
    first = Path("outputs/runs/smoke/core/train_toy/seed=0/run.json").read_bytes()

    text = Path("nbs/reports/table_toy.ipynb").read_text()
    Path("nbs/reports/table_toy.ipynb").write_text(text.replace("rows = 0", "rows = 2"))
    Path("nbs/reports/figure_dies.ipynb").unlink()
    code, out, err = reproduce("--publish")
    assert (
        code == 0 and "1 of 2 reports to run" in out and "published outputs/published/smoke/table_toy" in out
    ), out + err
    assert Path("outputs/runs/smoke/core/train_toy/seed=0/run.json").read_bytes() == first
    published = Path("outputs/published/smoke/table_toy")
    assert sorted(p.name for p in published.iterdir()) == [
        "executed.ipynb",
        "run.json",
        "table.csv",
        "table.md",
    ]
    for path in Path("outputs/published").rglob("*.*"):
        assert str(toy) not in path.read_text(), f"{path} names a folder of this machine"

    code, out, _ = reproduce()
    assert code == 0 and "0 of 2 reports to run" in out


WORKS = """import multiprocessing, os, time
from pathlib import Path
def tick(path):
    while not Path("released").exists():
        with open(path, "a") as file: file.write(f"{os.getpid()}\\n")
        time.sleep(0.05)
worker = multiprocessing.get_context("fork").Process(target=tick, args=("worker",))
worker.start()
tick("kernel")
worker.join()"""


@linux
def test_a_killed_run_leaves_no_writer_and_goes_on(toy):
    write_report(toy, "train_foundations", "open('count', 'a').write('x')", seeds="")
    write_report(toy, "train_toy", WORKS, seeds="seed", after=("train_foundations",))
    make = (
        "import os, subprocess, sys; os.environ['UNIFASHION_PARENT'] = str(os.getpid()); "
        "subprocess.run(sys.argv[1:])"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", make, *REPRODUCE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: Path("kernel").exists() and Path("worker").exists(), 120, "the report to work")
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    writers = [int(Path(name).read_text().split()[0]) for name in ("kernel", "worker")]
    wait_for(lambda: not any(alive(number) for number in writers), 10, f"the old writers {writers} to end")
    size = Path("kernel").stat().st_size
    assert not list(Path("outputs").rglob("train_toy/**/*.done")) and list(
        Path("outputs").rglob("train_foundations/*.done")
    )

    Path("released").touch()
    code, out, err = reproduce()
    assert code == 0 and "1 of 2 reports to run" in out, out + err
    assert (
        Path("kernel").stat().st_size == size and Path("count").read_text() == "x"
    )  # no old writer, and nothing done twice


@linux
def test_a_killed_job_is_run_again_and_a_finished_one_never(toy):
    write_report(toy, "train_toy", "open('count', 'a').write('x')", WORKS, seeds="seed")
    job = [sys.executable, "-m", "unifashion.app", "node", "train_toy", "--profile", "smoke"]
    first = subprocess.Popen(job, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: Path("kernel").exists() and Path("worker").exists(), 120, "the report to work")
    finally:
        first.kill()
        first.wait()
    Path("released").touch()
    again = subprocess.run(job, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "waiting" not in again.stdout, again.stdout + again.stderr
    assert Path("count").read_text() == "xx"
    once_more = subprocess.run(job, capture_output=True, text=True, timeout=120)
    assert once_more.stdout.split() == ["train_toy", "seed=0", "0.0", "s"]
    assert Path("count").read_text() == "xx", "finished: not run again"


def test_names_that_do_not_exist(toy):
    write_report(toy, "figure_toy")
    from unifashion.app import main

    assert main(["reproduce", "--profile", "tiny"]) == 1 and main(["reproduce", "table9"]) == 1
    code, out, err = reproduce("table9")
    assert code == 1 and err.strip() == "unifashion: unknown report 'table9'; there are figure_toy"
    code, out, err = reproduce("--profil", "x")
    assert code != 0 and "--profile" in out + err


def test_snakemake_agrees_about_what_is_left(toy):
    write_report(toy, "train_toy", seeds="seed")
    write_report(toy, "figure_toy", after=("train_toy",))
    from unifashion.ground.keys import plan

    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--config",
        "profile=smoke",
        "--dry-run",
        "--nolock",
        "--rerun-triggers",
        "mtime",
        "--quiet",
        "rules",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "train_toy" in done.stdout + done.stderr and done.returncode == 0, done.stderr
    for node in reversed(plan("smoke")):  # the downstream stamp is the older file: times decide nothing
        node.folder.mkdir(parents=True, exist_ok=True)
        node.stamp.touch()
        time.sleep(0.02)
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_report_runs_in_this_python_whatever_kernels_the_user_has(toy, tmp_path):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    wrong = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(wrong))
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    for file in (startup / "00.py", tmp_path / "startup.py"):
        file.write_text("open('started', 'w')")
    write_report(toy, "figure_toy", "import sys", "open('python', 'w').write(sys.executable)")
    users = {
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONSTARTUP": str(tmp_path / "startup.py"),
    }
    code, out, err = reproduce(env=os.environ | users)
    assert code == 0, out + err
    assert Path("python").read_text() == sys.executable and not Path("started").exists()


def test_values_reach_the_report_as_they_were_written(toy):
    write_report(toy, "tune_toy", "open('seen', 'w', encoding='utf-8', newline='').write(text)", "run.key")
    report = toy / "nbs/reports/tune_toy.ipynb"
    cells = json.loads(report.read_text())
    cells["cells"][1]["source"] += "\ntext: str = ''"
    cells["cells"][2]["source"] = cells["cells"][2]["source"].replace("full=full,", "full=full, text=text,")
    report.write_text(json.dumps(cells))
    value = "1e-3, 3e-3 #quick 'a' \"b\" =c $HOME {x} %s \\n ü雪😀 - true\nlast"
    code, out, err = reproduce("tune_toy", "--set", f"text={value}")
    assert code == 0, out + err
    assert Path("seen").read_bytes().decode() == value
    assert not list(Path("outputs/runs/smoke").glob(".workflow-*"))


def test_a_home_that_cannot_be_written_is_no_hindrance(toy):
    write_report(toy, "figure_toy")
    own = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    code, out, err = reproduce(env=own | {"HOME": "/dev/null"})
    assert code == 0 and "1 of 1 reports to run" in out, out + err


def test_a_user_without_name_and_home_is_given_both(toy, monkeypatch):
    from unifashion import own_commands

    def nameless():
        raise OSError("No username set in the environment")

    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    usual = own_commands.workflow_environment()
    assert all(usual.get(name) == os.environ.get(name) for name in ("HOME", "LOGNAME"))
    monkeypatch.setattr(own_commands.getpass, "getuser", nameless)
    monkeypatch.setattr(own_commands.os.path, "expanduser", lambda path: path)
    environment = own_commands.workflow_environment()
    assert environment["LOGNAME"] == f"user{os.getuid()}" and "PYTHONIOENCODING" not in environment
    assert environment["HOME"] == environment["UNIFASHION_CACHE"] == os.environ["UNIFASHION_CACHE"]


def test_a_cache_that_cannot_be_written_ends_in_one_line(toy):
    write_report(toy, "figure_toy")
    code, out, err = reproduce(env=os.environ | {"UNIFASHION_CACHE": "/dev/null/cache"})
    assert code == 1 and err.count("\n") == 1 and "set UNIFASHION_CACHE to one that can be written" in err


def test_a_disk_without_locks_ends_in_one_line(toy):
    write_report(toy, "figure_toy")
    Path("sitecustomize.py").write_text(
        "import os\nrename = os.rename\ndef files_alone(old, new):\n"
        "    if str(new).endswith('.lock.d'): raise OSError(95, 'Operation not supported')\n"
        "    rename(old, new)\nos.rename = files_alone\n"
    )
    code, out, err = reproduce()
    assert code == 1 and "figure_toy: no locks on the disk of" in out, out + err
    assert "UNIFASHION_LOCKS=no" in out
    assert "waiting" not in out and err.strip() == "unifashion: not finished: figure_toy"


def test_a_run_says_how_long_what_and_where(toy):
    row = "{'row': 'a', 'metric': 'm', 'value': 1, 'status': 'not run'}"
    write_report(toy, "table_toy", f"run.table([{row}])")
    code, out, _ = reproduce()
    assert code == 0 and "no earlier run to go by" in out
    assert "outputs/runs/smoke/core/table_toy: table.md" in out
    next(Path("outputs").rglob("*.done")).unlink()
    code, out, _ = reproduce()
    assert code == 0 and re.search(r"table_toy +about \d+ s", out), out
    left = {path.name for path in Path("outputs/runs/smoke").rglob(".*")}
    assert left == {".table_toy.lock.d", ".table_toy.node.lock.d"}


def test_a_relative_folder_of_data_is_the_callers(toy, tmp_path):
    (tmp_path / "caller" / "data" / "annotations").mkdir(parents=True)
    lines = ["from unifashion.ground.core import data_dir", "print(data_dir())"]
    write_report(toy, "figure_toy", *lines, sections=())
    words = {"cwd": tmp_path / "caller", "env": os.environ | {"UNIFASHION_DATA": "data"}}
    code, out, err = reproduce(**words)
    assert code == 0, out + err
    executed = (toy / "outputs/runs/smoke/core/figure_toy/executed.ipynb").read_text()
    assert "$UNIFASHION_DATA" in executed and "failed" not in executed


def test_what_a_terminal_cannot_show_is_replaced(tmp_path):
    rows = "image,text,split\ncoat.png,a coat,test\n外套.png,a coat,test\n"
    (tmp_path / "catalogue.csv").write_text(rows, encoding="utf-8")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "coat.png")
    words = [sys.executable, "-m", "unifashion.app", "prepare", "folder", "--root", str(tmp_path), "--check"]
    for coding in ("latin-1", "ascii:strict"):
        own = {"env": os.environ | {"PYTHONIOENCODING": coding}, "cwd": ROOT}
        done = subprocess.run(words, capture_output=True, **own)
        assert b"codec" not in done.stderr and b"??.png" in done.stdout, done


def test_version_and_what_works_without_a_clone(toy, tmp_path):
    shutil.copytree(toy / "unifashion", tmp_path / "site" / "unifashion")
    own = {"env": os.environ | {"PYTHONPATH": str(tmp_path / "site")}, "cwd": tmp_path}
    own |= {"capture_output": True, "text": True}
    unifashion = [sys.executable, "-m", "unifashion.app"]
    done = subprocess.run([*unifashion, "--version"], **own)
    assert done.returncode == 0 and re.fullmatch(r"unifashion \d+\.\d+\.\d+\n", done.stdout), done
    for words in (["reproduce"], ["reproduce", "audit", "--profile", "smoke"], ["node", "audit"]):
        done = subprocess.run([*unifashion, *words], **own)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done
        assert "unifashion: no clone of the repository is here" in done.stderr and "prepare" in done.stderr
    done = subprocess.run([*unifashion, "prepare", "vitonhd", "--root", str(tmp_path)], **own)
    assert "VITON-HD" in done.stdout and not done.stderr


def test_import_names_the_wings_and_brings_in_none():
    program = (
        "import sys, unifashion as u\n"
        "assert set(u.WINGS) == set(u.__all__) <= set(dir(u))\n"
        "assert all(wing in u.__doc__ for wing in u.WINGS)\n"
        "assert not [name for name in sys.modules if name.startswith('unifashion.')]\n"
        "assert u.models.__name__ == 'unifashion.models' and 'torch' not in sys.modules\n"
        "u.wardobe"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert "AttributeError: unifashion has no 'wardobe'; its wings are ground, wardrobe" in done.stderr
    assert {path.parent.name for path in (ROOT / "unifashion").glob("*/*.py")} == set(wings())


def wings():
    import unifashion

    return unifashion.WINGS


@pytest.mark.parametrize(
    "words, said",
    [
        (["PROFIL=mini"], "unknown setting PROFIL: make help takes none"),
        (["reproduce", "PROFIL=mini"], "make reproduce takes PROFILE FULL SEEDS ONLY PUBLISH CORES PYTHON"),
        (["test", "PROFILE=smoke"], "unknown setting PROFILE: make test takes ONLY PYTHON"),
        (["lab", "ONLY=core"], "unknown setting ONLY: make lab takes PYTHON"),
        (["demo", "FOLDER=x"], "unknown setting FOLDER: make demo takes CATALOGUE PROFILE PORT PYTHON"),
        (["reproduce", "FULL=ja"], "FULL is 1 or 0; here: ja"),
        (["test", "PYTHON="], "Python 3.11 to 3.13 is needed"),
    ],
)
def test_make_says_what_is_wrong(words, said):
    done = subprocess.run(["make", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode and said in done.stderr and "Traceback" not in done.stderr


def test_every_target_says_what_it_takes():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()) - {"help"}
    assert {name for name in re.findall(r"^TAKES_(\w+) :=", text, re.M)} == targets


def test_tests_are_chosen_by_path_or_name():
    import conftest

    class Item:
        def __init__(self, nodeid):
            self.nodeid, self.path = nodeid, Path(nodeid.split("::")[0])

    def chosen(only):
        items = [Item("tests/ground/test_core.py::test_a"), Item("tests/test_repo.py::test_Core")]
        hook = types.SimpleNamespace(pytest_deselected=lambda items: None)
        config = types.SimpleNamespace(getoption=lambda name: only, hook=hook)
        conftest.pytest_collection_modifyitems(config, items)
        return len(items)

    assert [chosen(only) for only in ("core", "ground/", "test_repo", "", "nothing")] == [2, 1, 1, 2, 0]


def set_up_module():
    spec = importlib.util.spec_from_file_location("set_up", ROOT / ".setup.py")
    set_up = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(set_up)
    return set_up


def environment_that_says(folder, version):
    "An environment whose Python knows nothing but its version."
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f"#!/bin/sh\necho '{version}'\n")
    (folder / "bin" / "python").chmod(0o755)
    return folder


def test_an_active_environment_is_looked_at_before_anything_is_installed(tmp_path):
    set_up = set_up_module()
    old = environment_that_says(tmp_path / "old", "3 10")
    with pytest.raises(SystemExit, match=f"that of the active environment {old} is 3.10"):
        set_up.check_active(old)
    set_up.check_active(environment_that_says(tmp_path / "new", "3 12"))
    with pytest.raises(SystemExit, match="gone is not there, or has no Python: deactivate it"):
        set_up.check_active(tmp_path / "gone")
    (old / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SystemExit, match="does not run"):
        set_up.check_active(old)


def test_what_an_active_environment_would_lose_is_said(tmp_path, capsys):
    set_up = set_up_module()
    has = [["numpy", "1.26.4"], ["torch", "2.13.0+cpu"], ["open_clip_torch", "3.2.0"], ["other", "1"]]
    folder = environment_that_says(tmp_path / "active", json.dumps(has))
    names = ["numpy==2.4.6", "torch==2.13.0", "open-clip-torch==3.3.0", "mkdocstrings[python]==1.0.8"]
    assert set_up.changes(folder / "bin" / "python", names) == (
        ["numpy 1.26.4 to 2.4.6", "open-clip-torch 3.2.0 to 3.3.0"],
        1,
    )
    set_up.say_what_changes(folder, names)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "changes numpy 1.26.4 to 2.4.6, open-clip" in said
    assert "deactivate it" in said


def test_settings_that_install_elsewhere_are_left_out(monkeypatch):
    for name, value in (("PIP_USER", "1"), ("PIP_TARGET", "there"), ("PIP_INDEX_URL", "index")):
        monkeypatch.setenv(name, value)
    env = set_up_module().surroundings()
    assert env["PIP_USER"] == "0" and "PIP_TARGET" not in env and env["PIP_INDEX_URL"] == "index"


def test_set_up_explains_in_one_line():
    set_up = set_up_module()
    said = {
        "OSError: [Errno 28] No space left on device": "the disk is full",
        "Could not fetch: dns error: failed to lookup": "no network",
        "x\nERROR: No matching distribution": "the installer failed: x / ERROR: No matching",
    }
    for words, meaning in said.items():
        with pytest.raises(SystemExit, match=f"set-up: {meaning}"):
            set_up.explain(words)
    with pytest.raises(SystemExit, match="Python 3.11 to 3.13 is needed; python3 is 3.9"):
        set_up.check_python((3, 9, 1), "python3")
    names = set_up.pins((ROOT / "environment.yml").read_text())
    assert names[:2] == ["torch==2.13.0", "torchvision==0.28.0"] and all("==" in name for name in names)
