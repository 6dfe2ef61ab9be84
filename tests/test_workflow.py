"""The workflow from the outside: what runs, what it says, what a kill leaves behind. Reports of a few
lines in a repository of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, write_report

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


@pytest.mark.parametrize(
    "words, said",
    [
        (["PROFIL=mini"], "unknown setting PROFIL; there are PROFILE FULL SEEDS ONLY PUBLISH CORES PYTHON"),
        (["test", "PYTHON="], "Python 3.11 to 3.13 is needed"),
    ],
)
def test_make_says_what_is_wrong(words, said):
    done = subprocess.run(["make", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode and said in done.stderr and "Traceback" not in done.stderr


def test_set_up_explains_in_one_line():
    import importlib.util

    spec = importlib.util.spec_from_file_location("set_up", ROOT / ".setup.py")
    set_up = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(set_up)
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
