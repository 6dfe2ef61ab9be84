"""Many machines: what a report asks of one, the settings of both executors, a workflow under Slurm's
commands as stand-ins, a parent that is elsewhere."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import write_report

from unifashion.ground.cluster import ASSUMED, EXECUTORS, LEAST, asked, gpus_of, needs, write_settings
from unifashion.ground.keys import plan
from unifashion.ground.locks import this_host

PLUGINS = {
    "slurm": ["snakemake_executor_plugin_slurm"],
    "kubernetes": ["snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_fs"],
}
RECORD = {"device": "cpu", "fp32_gflops": 150, "seconds": 601, "peak_memory_mib": 1000, "parameters": {}}


def need_plugin(executor):
    missing = [name.replace("_", "-") for name in PLUGINS[executor] if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def record(node, **facts):
    node.folder.mkdir(parents=True, exist_ok=True)
    (node.folder / "run.json").write_text(json.dumps(RECORD | facts))


def test_minutes_and_memory_of_a_record():
    # 601 s at 150 GFLOP/s are 1803 s at 50; twice that is 60.1 minutes; 1000 MiB * 1.5 + 1024 is 2524
    assert asked(RECORD) == (65, 2560)
    assert asked(RECORD | {"device": "cuda"})[0] == 25, "601 s twice; another processor is no matter"
    assert asked(RECORD | {"seconds": 1}) == (LEAST, 2560)


def test_a_report_asks_by_the_records_that_speak_for_it(toy):
    write_report(toy, "train_toy", seeds="seed", sections=("machine",))
    write_report(toy, "table_toy", sections=("world",))
    table, *seeds = sorted(plan("smoke", seeds="0 1"), key=lambda node: node.name)
    assert needs(seeds, 0) == dict(zip(("runtime", "mem_mb"), ASSUMED["computes"]))
    assert needs(seeds, 2) == dict(zip(("runtime", "mem_mb"), ASSUMED["computes on a GPU"])) | {"gpu": 2}
    assert needs([table], 2) == dict(zip(("runtime", "mem_mb"), ASSUMED["reads"])), "no GPU to read"
    record(seeds[0])
    record(seeds[1], seconds=1, peak_memory_mib=5000)
    assert needs(seeds, 0) == {"runtime": 65, "mem_mb": 8704}, "the most that a seed asks for"
    assert needs(seeds, 1)["runtime"] == ASSUMED["computes on a GPU"][0], "a processor is no guide for a GPU"
    record(seeds[0], device="cuda")
    assert needs(seeds[:1], 1) == {"runtime": 25, "mem_mb": 2560, "gpu": 1}


def test_a_core_run_is_no_guide_for_a_full_one(toy):
    write_report(toy, "train_toy", seeds="seed", sections=("machine",))
    core, full = (plan("smoke", full=full, seeds="0") for full in (False, True))
    record(full[0])
    assert needs(full, 0)["runtime"] == ASSUMED["computes"][0]
    record(full[0], parameters={"full": True})
    assert needs(full, 0)["runtime"] == 65 and needs(core, 0)["runtime"] == ASSUMED["computes"][0]


def test_profiles_of_the_papers_data_have_a_gpu():
    assert {name: gpus_of(name) for name in ("smoke", "mini", "open", "folder", "paper")} == {
        "smoke": 0, "mini": 0, "open": 0, "folder": 0, "paper": 1
    }


def test_settings_are_written_and_an_unknown_executor_is_named(tmp_path):
    for executor in EXECUTORS:
        made = yaml.safe_load(write_settings(executor, tmp_path / executor).read_text())
        assert made["executor"] == executor and made["retries"] and made["nolock"] is True
    with pytest.raises(ValueError, match="unknown executor 'lsf'; there are slurm, kubernetes"):
        write_settings("lsf", tmp_path)


@pytest.mark.parametrize("executor", sorted(EXECUTORS))
def test_a_dry_run_says_what_each_job_asks_for(toy, executor):
    need_plugin(executor)
    write_report(toy, "train_toy", seeds="seed", sections=("machine",))
    write_report(toy, "table_toy", sections=(), after=("train_toy",))
    write_settings(executor, toy / "settings")
    options = ["--directory", str(toy)] if executor == "kubernetes" else []
    command = [sys.executable, "-m", "snakemake", "--profile", "settings", *options, "--dry-run"]
    done = subprocess.run(
        [*command, "--config", "profile=paper"], capture_output=True, text=True, timeout=120
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    parts = re.split(r"^rule (\w+):", said, flags=re.M)
    rules = dict(zip(parts[1::2], parts[2::2]))
    train, table = rules["train_toy"], rules["table_toy"]
    minutes, memory = ASSUMED["computes on a GPU"]
    assert f"runtime={minutes}" in train and f"mem_mb={memory}" in train and "gpu=1" in train, said
    assert "gpu=" not in table and f"mem_mb={ASSUMED['reads'][1]}" in table


STAND_INS = {
    "sbatch": """
id=$(( $(ls "$JOBS" | grep -c asked) + 1 ))
echo "$*" > "$JOBS/$id.asked"
for word; do wrapped=${word#--wrap=}; done
(setsid sh -c "$wrapped" > "$JOBS/$id.log" 2>&1 < /dev/null; echo $? > "$JOBS/$id.code") > /dev/null 2>&1 &
echo $id""",
    # a process between two of ours
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done\n"$@"\nexit $?',
    "sacct": """
case "$*" in *State*) ;; *) exit 0;; esac
for job in "$JOBS"/*.asked; do
  id=$(basename "$job" .asked)
  state=RUNNING
  [ ! -e "$JOBS/$id.code" ] || { [ "$(cat "$JOBS/$id.code")" = 0 ] && state=COMPLETED || state=FAILED; }
  echo "$id|$state"
done""",
    "sinfo": "echo 'all*'",
    "scontrol": "echo 'MaxArraySize = 1001'",
    "sshare": "exit 0",
    "sacctmgr": "exit 0",
}
DIES = """import os
with open("count", "a") as file: file.write("x")
if os.path.getsize("count") == 1: os.kill(os.getppid(), 9)  # the job's own process, as for want of memory"""


@pytest.mark.skipif(sys.platform != "linux", reason="stand-ins for Slurm's commands need Linux's")
def test_under_slurm_a_killed_job_is_run_again_with_more_memory_and_a_finished_one_never(toy, tmp_path):
    need_plugin("slurm")
    write_report(toy, "train_toy", DIES, seeds="seed", sections=("machine",))
    write_settings("slurm", toy / "settings")
    for name, lines in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    own = {"JOBS": str(jobs), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    own |= {"OMP_NUM_THREADS": "1", "UNIFASHION_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "snakemake", "--profile", "settings", "--config", "profile=smoke"]
    command += ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
    command += ["--latency-wait", "5"]
    options = {"env": os.environ | own, "capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run(command, **options)
    logs = "\n".join(path.read_text() for path in sorted(jobs.iterdir()))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    asked_for = [(jobs / f"{i}.asked").read_text() for i in (1, 2)]
    minutes, memory = ASSUMED["computes"]
    assert all(f"-t {minutes} " in words for words in asked_for)
    assert [f"--mem {memory * i} " in words for i, words in enumerate(asked_for, 1)] == [True, True]
    assert Path("count").read_text() == "xx" and len(list(jobs.glob("*.asked"))) == 2
    assert len(list(Path("outputs").rglob("*.done"))) == 1
    done = subprocess.run(command, **options)
    assert "Nothing to be done" in done.stdout + done.stderr and len(list(jobs.glob("*.asked"))) == 2


WATCHES = "from unifashion.ground.execution import end_with_parent\n"
WATCHES += "end_with_parent(); print('up', flush=True); import time; "


def test_a_parent_of_another_machine_is_a_stranger_here():
    env = os.environ | {"UNIFASHION_PARENT": "1@elsewhere"}
    done = subprocess.run([sys.executable, "-c", WATCHES + "time.sleep(1)"], env=env, timeout=60)
    assert done.returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="nothing is watched there")
def test_a_process_further_up_is_watched_too():
    above = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    env = os.environ | {"UNIFASHION_PARENT": f"{above.pid}@{this_host()}"}
    sleeps = WATCHES + "time.sleep(60)"
    below = subprocess.Popen([sys.executable, "-c", sleeps], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert below.stdout.readline() == "up\n" and below.poll() is None
    finally:
        above.kill()
        above.wait()
    assert below.wait(timeout=30) == 1
