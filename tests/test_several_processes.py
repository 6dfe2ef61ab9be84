"""Several processes train as one: losses, noise and weights, whole or in shares; and what a kill does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_report
from safetensors.torch import load_file
from stages import STAGES

from unifashion.ground.files import load_arrays
from unifashion.models import together
from unifashion.models.history import History
from unifashion.models.recipe import Batches, Fit, loader

HERE = Path(__file__).resolve().parent
APART = 2e-4  # of a loss near 1 to 10 after some steps, summed in another order


def torchrun(*words, **options):
    "A command in two processes of one node, as the chapter of the loop has it."
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path),
                   "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
               "--nproc-per-node", "2", *map(str, words)]
    return subprocess.run(command, env=environment, text=True, **options)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "A folder in which two processes have been through every stage."
    home = tmp_path_factory.mktemp("two")
    done = torchrun(HERE / "stages.py", home, capture_output=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert [(home / f"rank-{k}").read_text() for k in (0, 1)] == ["one of 2"] * 2
    return home


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_have_the_losses_of_one(stage, two, tmp_path):
    _, alone = STAGES[stage](tmp_path)
    both = History.read(two / stage)
    assert len(both) == len(alone) >= 3
    for name in alone.rows[0]:
        if name not in ("seconds", "step"):
            assert np.allclose(both[name], alone[name], rtol=APART, atol=APART), name


def test_a_killed_process_ends_all_and_the_next_start_ends_in_the_same_bits(two, tmp_path):
    cut = torchrun(HERE / "stages.py", tmp_path, 3, capture_output=True, timeout=120)
    assert cut.returncode != 0 and "Signal 9" in cut.stderr + cut.stdout
    stage = tmp_path / "language_in_shares"
    assert not (stage / "final").exists() and len(History.read(stage)) in (2, 3)
    done = torchrun(HERE / "stages.py", tmp_path, 99, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    kept = [home / "language_in_shares" / "final" / "model.safetensors" for home in (two, tmp_path)]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_weights_in_shares_are_written_whole(two):
    "Half of every weight lay on each process (`stages.py` looks); what is written is whole, and the same."
    assert (two / "in shares").read_text() == "0.50"
    whole, dealt = (load_file(two / name / "final" / "model.safetensors")
                    for name in ("language", "language_in_shares"))
    assert whole.keys() == dealt.keys() and all(whole[name].shape == dealt[name].shape for name in whole)
    assert all(torch.allclose(whole[name], dealt[name], atol=1e-4) for name in whole)


TRAIN = """import os, torch
from unifashion.models.train import Fit, fit
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
data = [torch.randn(3) for _ in range(24)]
loss = lambda own, batch: own(batch).square().mean()
how = Fit(steps=6, batch=8, lr=0.1)
history = fit(model, data, loss, how, run.scratch("toy"), 0, log=False, device="cpu")
run.arrays("losses", {"losses": history["loss"]})
run.record(world=int(os.environ.get("WORLD_SIZE", 1)), rank=os.environ.get("RANK", ""))"""


def test_a_report_trained_by_two_is_one_report(toy, tmp_path):
    "The line that the chapter of the loop has, with two processes: one record, one stamp, the same losses."
    write_report(toy, "train_toy", TRAIN, sections=("world",), seeds="seed")
    line = "-m", "unifashion.app", "node", "train_toy", "--profile", "smoke"
    done = torchrun(*line, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    folder = toy / "outputs" / "runs" / "smoke" / "core" / "train_toy" / "seed=0"
    record = json.loads((folder / "run.json").read_text())
    assert (record["world"], record["rank"]) == (2, "0")
    assert len(list(folder.glob("*.done"))) == 1 and not list(folder.parent.glob(".*rank*"))
    both = load_arrays(folder / "losses.safetensors")["losses"]
    shutil.rmtree(toy / "outputs")
    shutil.rmtree(tmp_path / "cache" / "checkpoints")
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert np.allclose(both, load_arrays(folder / "losses.safetensors")["losses"], rtol=1e-5)


@pytest.fixture
def second_of_two(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")


def test_chance_is_drawn_for_the_whole_batch(second_of_two):
    torch.manual_seed(0)
    own = together.drawn(torch.randn_like, torch.zeros(3, 2))
    torch.manual_seed(0)
    assert torch.equal(own, torch.randn(6, 2)[1::2])


def test_each_process_reads_its_share_of_a_step(second_of_two):
    settings = Fit(steps=3, batch=4, lr=1.)
    steps = list(Batches(9, settings, seed=0))
    seen = [batch.tolist() for batch in loader(list(range(9)), Batches(9, settings, seed=0))]
    assert seen == [step[1::2] for step in steps]


@pytest.mark.parametrize("what", ["a batch", "rows of ITM"])
def test_what_does_not_divide_is_refused(second_of_two, what):
    with pytest.raises(ValueError, match="5 rows do not divide among 2 processes"):
        if what == "a batch":
            Batches(9, Fit(steps=3, batch=5, lr=1.), seed=0)
        else:
            together.first_rows(5)
