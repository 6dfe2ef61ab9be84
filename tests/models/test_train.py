"""The loop: its recipe, its checkpoints, and that no kill, at any moment, changes a bit of what comes out."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import unifashion.models.checkpoints as checkpoints_module
import unifashion.models.train as train_module
from unifashion.models.checkpoints import (
    begin_folder,
    checkpoint_path,
    checkpoints,
    commit_folder,
    copy_into,
    load_optimizer,
    optimizer_tensors,
    random_state,
    set_random_state,
    sweep,
    trained_parameters,
    trained_tensors,
)
from unifashion.models.losses import Temperature
from unifashion.models.recipe import (
    Average,
    Batches,
    batch_indices,
    epoch_order,
    learning_rate,
    loader,
    parameter_groups,
)
from unifashion.models.history import History
from unifashion.models.train import Fit, TrainingDiverged, fit

torch.set_num_threads(1)
SETTINGS = Fit(steps=23, batch=8, lr=1e-2, warmup=3, ema=0.9, checkpoint_every=4)


class Net(nn.Module):
    """Small, with everything that a checkpoint could forget:
    dropout, running statistics, a frozen part, a temperature."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.body = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 3)
        )
        self.unused, self.temperature = nn.Linear(2, 2), Temperature()

    def classify(self, x):
        return self.body(self.frozen(x)) / self.temperature()  # not `forward`: losses call parts


class Points:
    "Sixty examples in three classes; `.ids` names them."

    def __init__(self, before=lambda i: None):
        rng = np.random.default_rng(0)
        self.y = rng.integers(0, 3, 60)
        self.x = (rng.normal(size=(60, 6)) + np.eye(6)[self.y]).astype(np.float32)
        self.ids, self.before = [f"item-{i}" for i in range(60)], before

    def __len__(self):
        return 60

    def __getitem__(self, i):
        self.before(i)
        return self.x[i], int(self.y[i])


def net(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options)


def noisy_loss(model, batch):
    "Draws from all three global generators."
    x, y = batch
    logits = model.classify(x + 0.01 * np.random.randn() + 0.01 * random.gauss(0, 1))
    return {
        "loss": nn.functional.cross_entropy(logits, y),
        "accuracy": (logits.argmax(1) == y).float().mean(),
    }


def run(folder, data=None, settings=SETTINGS, model=None, loss=noisy_loss, seed=5, **options):
    model = model or net()
    return model, fit(
        model, data or Points(), loss, settings, folder, seed, log=False, device="cpu", **options
    )


def weights(folder):
    return (Path(folder) / "final" / "model.safetensors").read_bytes()


def measured(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    model, history = run(folder)
    return folder, model, history


# ---------------------------------------------------------------- recipe


def test_settings_that_make_no_sense_are_named():
    for bad in (
        {"steps": 0},
        {"warmup": 30},
        {"ema": 1.0},
        {"dtype": "fp32"},
        {"schedule": "linear"},
        {"clip": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Fit(**{"steps": 23, "batch": 8, "lr": 1e-2, **bad})


def test_learning_rate():
    s = Fit(steps=110, batch=1, lr=2.0, warmup=10)
    assert [learning_rate(k, s) for k in (0, 4, 9, 10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert learning_rate(60, s) == pytest.approx(1.0) and 0 < learning_rate(109, s) < 1e-3
    assert learning_rate(109, Fit(steps=110, batch=1, lr=2.0, schedule="constant")) == 2.0


def test_only_matrices_decay():
    model = Net()
    decayed, rest = parameter_groups(model, 0.05)
    name = {id(p): n for n, p in model.named_parameters()}
    assert {name[id(p)] for p in decayed["params"]} == {"body.0.weight", "body.4.weight", "unused.weight"}
    assert {name[id(p)] for p in rest["params"]} == {
        "body.0.bias",
        "body.1.weight",
        "body.1.bias",
        "body.4.bias",
        "unused.bias",
        "temperature.value",
    }
    assert decayed["weight_decay"] == 0.05 and rest["weight_decay"] == 0


def test_order_is_pure_and_each_epoch_sees_all():
    steps = [batch_indices(60, 8, 3, s) for s in range(14)]
    assert all(len(set(np.concatenate(steps[e * 7 : e * 7 + 7]))) == 56 for e in (0, 1))
    epoch_order.cache_clear()
    assert np.array_equal(batch_indices(60, 8, 3, 9), steps[9]) and not np.array_equal(steps[0], steps[7])
    assert not np.array_equal(batch_indices(60, 8, 4, 0), steps[0])
    with pytest.raises(ValueError, match="batch of 64"):
        batch_indices(60, 64, 0, 0)


def test_loader_leaves_the_global_generators_alone():
    before = random_state()
    assert sum(len(y) for _, y in loader(Points(), Batches(60, SETTINGS, 0))) == 23 * 8
    assert random_state() == before


def test_average_by_hand():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(4.0)
    average = Average(layer, 0.75)
    layer.weight.data.fill_(0.0)
    average.update(0)
    assert average.tensors["weight"].item() == pytest.approx(0.4)  # keeps 1/10
    average.update(1000)
    assert average.tensors["weight"].item() == pytest.approx(0.3)  # keeps 3/4


# ---------------------------------------------------------------- checkpoints


def test_random_state_survives_json():
    draw = lambda: (
        torch.randn(3).tolist(),
        np.random.randn(),
        random.gauss(0, 1),
        random.random(),
        torch.rand(1).item(),
    )
    draw()  # numpy and Python now hold a second normal number back
    state = json.loads(json.dumps(random_state()))
    first = draw()
    set_random_state(state)
    assert draw() == first


def test_frozen_weights_are_not_kept_and_buffers_are():
    kept = trained_tensors(Net())
    assert (
        "body.1.running_var" in kept
        and "temperature.value" in kept
        and not any("frozen" in name for name in kept)
    )
    with pytest.raises(ValueError, match="no parameter"):
        trained_tensors(nn.Linear(2, 2).requires_grad_(False))


def test_copy_into_names_what_is_wrong():
    live = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(ValueError, match="file: tensor 'b' is missing"):
        copy_into(live, {"a": torch.ones(2)}, "file")
    with pytest.raises(ValueError, match="'c' is unknown"):
        copy_into(live, {**live, "c": torch.ones(1)}, "file")
    with pytest.raises(ValueError, match=r"'b' has shape \(4,\)"):
        copy_into(live, {"a": torch.ones(2), "b": torch.ones(4)}, "file")


def test_optimizer_memory_goes_by_name():
    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    named = trained_parameters(model)
    first = torch.optim.AdamW(named.values(), lr=0.1)
    step(model, first)
    there = {n: p.detach().clone() for n, p in named.items()}
    memory = {n: t.clone() for n, t in optimizer_tensors(first, named).items()}
    step(model, first)
    expected = model.weight.detach().clone()
    copy_into(trained_tensors(model), there, "memory")
    second = torch.optim.AdamW(list(named.values())[::-1], lr=0.1)
    load_optimizer(second, named, memory)
    step(model, second)
    assert torch.equal(model.weight, expected)


def test_half_written_folder_is_no_checkpoint(tmp_path):
    for done in (4, 12):
        part = begin_folder(checkpoint_path(tmp_path, done))
        (part / "x").write_text("x")
        commit_folder(part, checkpoint_path(tmp_path, done))
    begin_folder(checkpoint_path(tmp_path, 16))
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, 4), checkpoint_path(tmp_path, 12)]
    sweep(tmp_path, keep=checkpoint_path(tmp_path, 12))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-0000012"]


# ---------------------------------------------------------------- the loop


def loss_left(history):
    return history["loss"][-5:].mean() / history["loss"][:5].mean()


def test_a_run_learns(tmp_path):
    assert loss_left(run(tmp_path)[1]) < 0.75


def test_a_run_leaves_final_weights_and_history(unbroken):
    folder, model, history = unbroken
    assert history["step"].tolist() == list(range(23))
    assert history["lr"].tolist() == [learning_rate(s, SETTINGS) for s in range(23)]
    assert set(history.rows[0]) == {"step", "loss", "accuracy", "lr", "grad_norm", "seconds"}
    assert sorted(p.name for p in folder.iterdir()) == ["final", "history.jsonl", "settings.json"]
    assert not model.training
    assert not any(p.suffix in (".pt", ".pkl", ".bin") for p in folder.rglob("*"))


def test_first_update_is_adamw_by_hand(tmp_path):
    "One step, no dropout, no average: the loop adds nothing to the optimiser."
    settings = Fit(steps=1, batch=8, lr=0.01, clip=0.0, weight_decay=0.1)
    plain_loss = lambda model, batch: nn.functional.cross_entropy(model.classify(batch[0]), batch[1])
    model, history = run(tmp_path / "a", settings=settings, model=net(dropout=0), loss=plain_loss)
    other, data = net(dropout=0).train(), Points()
    optimizer = torch.optim.AdamW(parameter_groups(other, 0.1), lr=0.01, betas=(0.9, 0.98))
    places = batch_indices(60, 8, 5, 0)
    loss = plain_loss(other, (torch.tensor(data.x[places]), torch.tensor(data.y[places])))
    loss.backward()
    optimizer.step()
    assert history["loss"][0] == pytest.approx(loss.item())
    assert all(torch.allclose(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


def test_clip_bounds_the_update_and_the_norm_is_logged(tmp_path):
    steep = lambda model, batch: 1e4 * noisy_loss(model, batch)["loss"]
    _, history = run(tmp_path / "a", settings=Fit(steps=3, batch=8, lr=1e-3, clip=0.5), loss=steep)
    assert (history["grad_norm"] > 100).all()  # the norm before the clip
    clipped, free = (
        run(tmp_path / name, settings=Fit(steps=3, batch=8, lr=1e-3, clip=clip), loss=steep)[0]
        for name, clip in (("b", 0.5), ("c", 0.0))
    )
    assert not torch.equal(clipped.body[0].weight, free.body[0].weight)


def test_final_weights_are_the_average(tmp_path, unbroken):
    _, model, _ = unbroken
    plain_model, _ = run(tmp_path / "plain", settings=Fit(**{**SETTINGS.__dict__, "ema": 0.0}))
    assert not torch.equal(plain_model.body[0].weight, model.body[0].weight)
    assert torch.equal(
        plain_model.body[1].running_mean, model.body[1].running_mean
    )  # the trajectory is the same


def test_a_finished_run_is_loaded_not_trained(unbroken):
    folder, model, history = unbroken

    def forbidden(i):
        raise AssertionError("trained again")

    torch.manual_seed(123)
    before = random_state()
    other = net(seed=0)
    set_random_state(before)
    _, again = run(folder, Points(forbidden), model=other)
    assert torch.equal(other.body[0].weight, model.body[0].weight) and not other.training
    assert again.rows == history.rows and random_state() == before


def test_training_leaves_the_callers_chance_alone(tmp_path):
    model = net()
    before = random_state()
    run(tmp_path, settings=Fit(steps=2, batch=8, lr=1e-3), model=model)
    assert random_state() == before


def test_another_runs_folder_is_refused_by_name(unbroken):
    folder, _, _ = unbroken
    other = Fit(**{**SETTINGS.__dict__, "lr": 2e-2})
    with pytest.raises(ValueError, match=r"lr was 0.01, is 0.02"):
        run(folder, settings=other)
    with pytest.raises(ValueError, match=r"seed was 5, is 6"):
        run(folder, seed=6)
    model = net()
    model.unused = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="tensors was"):
        run(folder, model=model)
    run(folder, settings=Fit(**{**SETTINGS.__dict__, "checkpoint_every": 7}))  # does not touch the weights


def test_too_little_data_is_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match="batch of 64"):
        run(tmp_path / "a", settings=Fit(steps=1, batch=64, lr=1e-3))
    assert not (tmp_path / "a").exists()


def test_precision_may_change_between_runs_of_one_process(tmp_path):
    seen = []

    def loss(model, batch):
        logits = model.classify(batch[0])
        seen.append(model.body[0](batch[0]).dtype)
        return nn.functional.cross_entropy(logits, batch[1])

    for dtype in ("bf16", "no", "bf16"):
        run(tmp_path / f"{dtype}{len(seen)}", settings=Fit(steps=1, batch=8, lr=1e-3, dtype=dtype), loss=loss)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_reading_ahead_changes_nothing(tmp_path, unbroken):
    folder, _, _ = unbroken
    run(tmp_path / "ahead", workers=1)
    assert weights(tmp_path / "ahead") == weights(folder)


def test_tensorboard_and_progress_bar(tmp_path, capsys):
    fit(
        net(), Points(), noisy_loss, Fit(steps=3, batch=8, lr=1e-3), tmp_path / "a", 0, log=True, device="cpu"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload()
    assert {"loss", "accuracy", "lr", "grad_norm"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == [0, 1, 2]
    assert "/3" in capsys.readouterr().err


# ---------------------------------------------------------------- divergence


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_loss_names_step_and_examples_and_keeps_the_checkpoint(tmp_path, unbroken, value):
    folder, _, _ = unbroken
    poisoned = Points()
    place = int(batch_indices(60, 8, 5, 7 + 2)[3])  # first seen in the second epoch ...
    first = next(s for s in range(23) if place in batch_indices(60, 8, 5, s))
    poisoned.x = poisoned.x.copy()
    poisoned.x[place] = math.nan
    inf = lambda model, batch: {"loss": torch.nan_to_num(noisy_loss(model, batch)["loss"], nan=value)}
    with pytest.raises(TrainingDiverged, match=rf"the loss is {value} at step {first}") as error:
        run(tmp_path / "a", poisoned, loss=inf)
    assert error.value.step == first and f"item-{place}" in error.value.ids and len(error.value.ids) == 8
    assert [p.name for p in checkpoints(tmp_path / "a")] == (
        [f"checkpoint-{first // 4 * 4:07d}"] if first >= 4 else []
    )
    assert len(History.read(tmp_path / "a")) == first
    run(tmp_path / "a")  # ... and once it is mended, the run goes on
    assert weights(tmp_path / "a") == weights(folder)


def test_bad_gradient_and_bad_weight(tmp_path):
    def steep(model, batch):
        return noisy_loss(model, batch)["loss"] + torch.sqrt(model.unused.weight.sum() * 0)

    with pytest.raises(TrainingDiverged, match="norm is nan at step 0.*none yet"):
        run(tmp_path / "a", loss=steep)

    def spoil(model, batch):
        loss = noisy_loss(model, batch)["loss"]
        if spoil.calls == 5:
            model.unused.weight.data.fill_(math.inf)  # a part that the loss does not read
        spoil.calls += 1
        return loss

    spoil.calls = 0
    with pytest.raises(TrainingDiverged, match="unused.weight is not finite at step 7.*checkpoint-0000004"):
        run(tmp_path / "b", loss=spoil)
    assert checkpoints(tmp_path / "b") == [checkpoint_path(tmp_path / "b", 4)]


# ---------------------------------------------------------------- killed


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def child(work) -> int:
    "Run `work` in a fork of this warm process; the signal that ended it, 0 if none."
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def nth(n, act, also=lambda *a, **k: None):
    "A function that counts its calls and acts at the n-th."

    def call(*args, **options):
        call.n += 1
        if call.n == n:
            act(*args, **options)
        return also(*args, **options)

    call.n = 0
    return call


def killed_at(moment, n):
    "Options of `run`, with a kill at the n-th such moment; patches modules, so only for a child."
    data, loss, half = (
        Points(),
        noisy_loss,
        lambda tensors, path: (Path(path).write_bytes(b"\x10" * 40), die()),
    )
    if moment == "example":
        data = Points(nth(n, lambda i: die()))
    if moment == "loss":
        loss = nth(n, lambda *a: die(), noisy_loss)
    if moment == "update":
        torch.optim.AdamW.step = nth(n, lambda *a, **k: die(), torch.optim.AdamW.step)
    if moment == "history":
        write = train_module.Journal.write

        def torn(journal, row):
            journal.file.write(json.dumps(row)[:25])
            journal.file.flush()
            die()

        train_module.Journal.write = nth(n, torn, write)
    if moment == "file":
        checkpoints_module.save_file = nth(n, half, checkpoints_module.save_file)
    if moment == "rename":
        checkpoints_module.os.replace = nth(n, lambda *a: die(), os.replace)
    if moment == "flush":
        checkpoints_module.flush = nth(n, lambda *a: die(), checkpoints_module.flush)
    if moment == "sweep":
        train_module.sweep = nth(n, lambda *a, **k: die(), train_module.sweep)
    if moment == "half swept":

        def some(folder, keep=None):
            for path in checkpoints(folder):
                if path != keep:
                    (path / "model.safetensors").unlink()
                    die()
            sweep(folder, keep)

        train_module.sweep = nth(n, some)
    return {"data": data, "loss": loss}


MOMENTS = (
    [("example", k) for k in random.Random().sample(range(1, 184), 4)]
    + [("loss", k) for k in random.Random().sample(range(1, 24), 3)]
    + [("update", k) for k in random.Random().sample(range(1, 24), 2)]
    + [
        ("history", 2),
        ("history", 14),
        ("file", 1),
        ("file", 5),
        ("file", 15),
        ("file", 16),
        ("rename", 2),
        ("rename", 4),
        ("rename", 11),
        ("flush", 9),
        ("sweep", 1),
        ("sweep", 3),
        ("sweep", 6),
        ("half swept", 2),
        ("half swept", 6),
    ]
)


@pytest.mark.parametrize("chunk", range(4))
def test_sigkill_at_any_moment_changes_nothing(tmp_path, unbroken, chunk):
    "Random steps are drawn anew each time; every moment is killed once, then the run is started again."
    folder, _, history = unbroken
    for moment, n in MOMENTS[chunk::4]:
        place = tmp_path / f"{moment} {n}"
        assert child(lambda: run(place, **killed_at(moment, n))) == signal.SIGKILL, (moment, n)
        assert child(lambda: run(place)) == 0, (moment, n)
        assert weights(place) == weights(folder), (moment, n)
        assert measured(History.read(place)) == measured(history), (moment, n)


def test_killed_again_and_again(tmp_path, unbroken):
    "A process that never lives longer than seven steps still arrives."
    folder, _, history = unbroken
    deaths = 0
    while child(lambda: run(tmp_path / "a", **killed_at("loss", 7))) == signal.SIGKILL:
        deaths += 1
    assert deaths >= 3 and weights(tmp_path / "a") == weights(folder)
    assert measured(History.read(tmp_path / "a")) == measured(history)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["final", "history.jsonl", "settings.json"]


# ---------------------------------------------------------------- two processes

TWO = (
    "\n"
    "import sys, torch, torch.distributed as dist\n"
    "from pathlib import Path\n"
    "from safetensors.torch import load_file\n"
    "sys.path[:0] = [{tests!r}, {root!r}]\n"
    "from test_train import Fit, History, Points, TrainingDiverged, measured, net, noisy_loss, run, weights\n"
    "import math\n"
    "folder = Path({folder!r})\n"
    "quiet = lambda model, batch: "
    "torch.nn.functional.cross_entropy(model.body[4](torch.tanh(model.body[0](batch[0]))), batch[1])\n"
    "settings = Fit(steps=12, batch=16, lr=1e-2, warmup=2, checkpoint_every=4)\n"
    "\n"
    'model, history = run(folder / "two", settings=settings, loss=quiet)\n'
    "rank, world = dist.get_rank(), dist.get_world_size()\n"
    "assert world == 2, world\n"
    "mine = torch.cat([p.detach().flatten() for p in model.parameters()])\n"
    "both = [torch.zeros_like(mine) for _ in range(2)]\n"
    "dist.all_gather(both, mine)\n"
    "assert torch.equal(*both)\n"
    "\n"
    'run(folder / "whole", settings=settings, model=net(), loss=noisy_loss)           # dropout, one stream '
    "for all\n"
    "count = [0]\n"
    "def fails(model, batch):\n"
    "    count[0] += 1\n"
    "    if count[0] == 7: raise ConnectionError\n"
    "    return noisy_loss(model, batch)\n"
    'try: run(folder / "broken", settings=settings, loss=fails); raise SystemExit("did not fail")\n'
    "except ConnectionError: pass\n"
    "dist.barrier()\n"
    'run(folder / "broken", settings=settings)\n'
    'assert weights(folder / "broken") == weights(folder / "whole")\n'
    'assert measured(History.read(folder / "broken")) == measured(History.read(folder / "whole"))\n'
    "\n"
    'def one_bad(model, batch): return noisy_loss(model, batch)["loss"] * (math.nan if rank == 1 else 1)\n'
    'try: run(folder / "bad", settings=settings, loss=one_bad); raise SystemExit("went on")\n'
    "except TrainingDiverged as error: assert error.step == 0 and len(error.ids) == 16\n"
    '(folder / f"rank-{{rank}}").write_text(f"fine, of {{world}}")\n'
    "dist.barrier(); dist.destroy_process_group()\n"
)


def test_two_processes_train_as_one(tmp_path):
    """torchrun, gloo:
    same weights on both, the curve of one process with the whole batch, exact resume, and no one left
    waiting."""
    tests = Path(__file__).resolve().parent
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(tests), root=str(tests.parent), folder=str(tmp_path)))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "127.0.0.1",
        "--nproc_per_node",
        "2",
    ]
    done = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["fine, of 2"] * 2
    quiet = lambda model, batch: nn.functional.cross_entropy(
        model.body[4](torch.tanh(model.body[0](batch[0]))), batch[1]
    )
    _, one = run(
        tmp_path / "one", settings=Fit(steps=12, batch=16, lr=1e-2, warmup=2, checkpoint_every=4), loss=quiet
    )
    assert np.allclose(one["loss"], History.read(tmp_path / "two")["loss"], atol=1e-5)
    assert json.loads((tmp_path / "two" / "settings.json").read_text())["processes"] == 2
