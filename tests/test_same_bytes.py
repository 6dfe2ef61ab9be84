"""Same seed, same bytes: a workflow that trains foundations, generators and a model of either paper, twice,
with fresh caches, once undisturbed and once killed three times."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
REPORTS = "table1_cross_modal_retrieval", "train_language", "train_rag"  # and what they follow
REPRODUCE = [sys.executable, "-m", "unifashion.app", "reproduce", *REPORTS, "--profile", "smoke"]
LIMIT = 1800  # s for one run, its restarts included; two idle cores take about 150
# files that hold times, or that a kill leaves
TIMES = r"run\.json|executed\.ipynb|snakemake\.log|events\.out\.tfevents.*|.*lock|.*\.part|.*tmp~"
TICKS = os.sysconf("SC_CLK_TCK")


class Workflow:
    "A repository with a cache of its own, and the processes that work there."

    def __init__(self, folder, hash_seed):
        self.root, self.cache, self.end = folder / "repository", folder / "cache", time.time() + LIMIT
        for name in ("unifashion", "nbs/reports", "data"):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("settings.ini", "Snakefile", "environment.yml"):
            shutil.copy(ROOT / name, self.root)
        own = {
            "UNIFASHION_CACHE": str(self.cache),
            "PYTHONPATH": str(self.root),
            "PYTHONHASHSEED": str(hash_seed),
        }
        self.environment = {
            k: v for k, v in os.environ.items() if k not in ("UNIFASHION_DATA", "UNIFASHION_PARENT")
        } | own

    def start(self):
        with open(self.root / "said", "a") as log:
            options = dict(cwd=self.root, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
            self.process = subprocess.Popen(REPRODUCE, **options)

    def living(self):
        """Processes that have this cache in their environment:
        number -> (command line, CPU seconds with ended children)."""
        found, mark = {}, f"UNIFASHION_CACHE={self.cache}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                if state[0] in "ZX" or mark not in (folder / "environ").read_bytes().split(b"\0"):
                    continue
                found[int(folder.name)] = (
                    (folder / "cmdline").read_text(),
                    sum(map(int, state[11:15])) / TICKS,
                )
            except OSError:
                continue  # it has ended meanwhile, or is another user's
        return found

    def work_until(self, seconds):
        "Wait until this attempt has used so many CPU seconds; False if it ended before."
        while self.process.poll() is None:
            assert time.time() < self.end, f"the run takes longer than {LIMIT} s\n{self.said()}"
            if sum(used for _, used in self.living().values()) >= seconds:
                return True
            time.sleep(0.2)
        return False

    def kill(self, rng):
        "End the run's process and one of its kernels, wait until nobody is left; whether there was a kernel."
        kernels = [number for number, (command, _) in self.living().items() if "ipykernel" in command]
        for number in [self.process.pid, *rng.sample(kernels, min(1, len(kernels)))]:
            signalled(number)
        self.process.wait()
        end = time.time() + 20
        while self.living():
            assert time.time() < end, f"still there after the kill: {self.living()}"
            time.sleep(0.1)
        return bool(kernels)

    def finish(self):
        "Let it end; the CPU seconds of this attempt."
        before = os.times()
        self.work_until(float("inf"))
        assert self.process.returncode == 0, self.said()
        return sum(os.times()[2:4]) - sum(before[2:4])

    def close(self):
        "Leave no process behind."
        for number in self.living():
            signalled(number)
        self.process.wait()

    def said(self):
        return (self.root / "said").read_text()[-3000:]

    def results(self):
        "Name -> digest of every file that the run has left, times taken out."
        roots = {"outputs": self.root / "outputs", "cache": self.cache}
        files = {
            f"{name}/{p.relative_to(root)}": p
            for name, root in roots.items()
            for p in root.rglob("*")
            if p.is_file() and ".lock.d" not in p.parent.name
        }
        kept = {name: p for name, p in files.items() if not re.fullmatch(TIMES, p.name)}
        found = {name: sha256(timeless(p)).hexdigest() for name, p in kept.items()}
        # features are named by the pictures' folder and times: here by their own bytes
        cached = ("cache/features/", "cache/fittings/")
        return {f"cache/{own}.npy" if name.startswith(cached) else name: own for name, own in found.items()}


def signalled(number):
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        pass


def timeless(path):
    "A file's bytes; of cards and histories without the seconds that training took."
    if path.name not in ("card.json", "history.jsonl"):
        return path.read_bytes()
    parts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    values = [json.loads(part) for part in parts]
    return json.dumps([{k: v for k, v in value.items() if k != "seconds"} for value in values]).encode()


def undisturbed(folder):
    "Results, and the CPU seconds they took."
    workflow = Workflow(folder, hash_seed=1)
    workflow.start()
    try:
        return workflow.finish(), workflow.results()
    finally:
        workflow.close()


def killed_and_restarted(folder, moments, rng):
    "Results of a run that is killed when it has used so many CPU seconds, over all attempts."
    workflow, used = Workflow(folder, hash_seed=2), 0
    workflow.start()
    try:
        for moment in moments:
            assert workflow.work_until(moment - used), f"ended before it could be killed\n{workflow.said()}"
            had_kernel = workflow.kill(rng)
            print(f"killed after {moment:.1f} CPU s", "with a kernel" if had_kernel else "between kernels")
            used = moment
            workflow.start()
        workflow.finish()
        return workflow.results()
    finally:
        workflow.close()


def test_two_runs_and_three_kills_end_in_the_same_bytes(tmp_path):
    seed = int(os.environ.get("SEED_OF_KILLS", time.time_ns() % 10**6))
    print(f"the same moments again: SEED_OF_KILLS={seed}")
    rng = random.Random(seed)
    seconds, first = undisturbed(tmp_path / "undisturbed")
    moments = sorted(rng.uniform(0.02, 0.8) * seconds for _ in range(3))
    second = killed_and_restarted(tmp_path / "killed", moments, rng)
    for kind in (
        r".*\.safetensors",
        r".*/table\.csv",
        r".*/table\.md",
        r".*/captions\.json",
        r"cache/.*\.npy",
    ):
        assert any(re.fullmatch(kind, name) for name in first), f"nothing to compare of {kind}"
    differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    assert not differing, (
        f"SEED_OF_KILLS={seed}: {len(differing)} of {len(first)} files differ: {differing[:20]}"
    )
