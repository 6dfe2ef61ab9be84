"""What a run says of itself: guesses from records, the stage it is in, lines that others say."""

import io
import json
import os
import time
from pathlib import Path

import pytest
from conftest import write_report

from unifashion.ground import progress, runs
from unifashion.ground.keys import plan


@pytest.fixture
def node(toy):
    write_report(toy, "train_toy", seeds="seed")
    return plan("smoke")[0]


def record(folder, seconds, gflops, full=False, device="cpu"):
    folder.mkdir(parents=True, exist_ok=True)
    made = {"seconds": seconds, "fp32_gflops": gflops, "parameters": {"full": full}, "device": device}
    (folder / "run.json").write_text(json.dumps(made))


@pytest.mark.parametrize(
    "seconds, said", [(0.1, "1 s"), (89.4, "89 s"), (120, "2 min"), (5340, "89 min"), (5460, "1 h 31 min")]
)
def test_durations_are_spelled(seconds, said):
    assert progress.spell(seconds) == said


def test_a_guess_is_scaled_by_speed(node):
    published = Path("outputs/published/smoke/train_toy")
    assert progress.expected(node, 50) == (None, "no earlier run to go by")
    record(published / "seed=7", 100, 200)
    assert progress.expected(node, 50) == (400, "about 7 min"), "another seed is better than none"
    record(published / "seed=0", 10, 100, full=True)
    assert progress.expected(node, 50) == (20, "at most 20 s")
    record(published / "seed=0", 10, 100, device="cuda")
    assert progress.expected(node, 50)[0] is None
    record(node.folder, 30, 50)
    assert progress.expected(node, 50) == (30, "about 30 s"), "the last run here comes first"
    full = plan("smoke", full=True, seeds="0")[0]
    record(published / "seed=0", 10, 100)
    assert progress.expected(full, 100) == (10, "at least 10 s")


def test_guesses_are_announced_with_their_sum(toy, monkeypatch):
    write_report(toy, "train_toy", seeds="seed")
    nodes = plan("smoke", seeds="0 1 2")
    monkeypatch.setattr(progress, "fp32_probe", lambda: 50)
    for node, seconds in zip(nodes, (30, 60)):
        record(node.folder, seconds, 100)
    record(nodes[2].folder, 1, 1, device="cuda")
    assert [line.split("  ")[-1].strip() for line in progress.announced(nodes).split("\n")] == [
        "about 60 s",
        "about 2 min",
        "no earlier run to go by",
        "one after another about 3 min; 1 unknown (50 GFLOP/s here)",
    ]


def test_a_report_says_its_stage_and_steps(node):
    begun = time.time()
    assert progress.doing(node, begun) == ""
    run = runs.begin("train_toy", profile="smoke", seed=0, full=False, sections=("world",))
    with run.stage("outer"):
        with run.stage("ours"):
            assert progress.doing(node, begun).startswith("train_toy seed=0, ours, ")
            folder = run.scratch("ours")
            (folder / "settings.json").write_text('{"steps": 9}')
            (folder / "history.jsonl").write_text("{}\n{}\n")
            os.utime(folder / "history.jsonl", (begun + 9, begun + 9))
            assert progress.doing(node, begun).startswith("train_toy seed=0, ours, step 2 of 9, ")
            assert progress.doing(node, begun + 99) == "", "what a killed run has left"
        os.utime(folder / "history.jsonl", (begun - 9, begun - 9))
        assert progress.doing(node, begun).startswith("train_toy seed=0, outer, ")
        assert "step" not in progress.doing(node, begun)
    run.finish()
    assert progress.doing(node, begun) == "" and not runs.now_file(node).exists()


def test_lines_are_passed_on_and_counted(capsys):
    assert progress.follow(io.StringIO("one\n\ntwo ü\n"), ()) == 3
    assert capsys.readouterr().out == "one\n\ntwo ü\n"
    assert progress.follow(io.StringIO(""), ()) == 0


def test_results_are_named(node):
    assert progress.results([node]) == "no report has a table or a figure"
    node.folder.mkdir(parents=True)
    for name in ("table.md", "fig_b.png", "fig_a.png", "run.json"):
        (node.folder / name).touch()
    line = progress.results([node]).splitlines()[1]
    assert line == f"  {node.folder.as_posix()}: table.md, fig_a.png, fig_b.png"
