"""Verdicts, gathered: they are what published pages say; tables without claims and failures without a
reason are found; the list of runs leaves the scoreboard out."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_report

from unifashion.evidence import verdicts as v
from unifashion.evidence.claims import Claim, read_claims
from unifashion.evidence.front_page import Item
from unifashion.ground.keys import plan

HEAD = """# A table

### Claims

| claim | source | protocol | metric | difference, points | seeds | verdict |
| --- | --- | --- | --- | --- | --: | --- |
"""
LONG = "| Long \\| wide is better | Table 1, ours | toy_100 | Mean | +2.00 [+1.00, +3.00] | 3 | holds |\n"
RED = "| Red is better | Table 1, ours | toy_100 | KD | +1.50 [+1.00, +2.00] | 3 | fails |\n"
BLUE = "| Blue is better | Table 1, ours | toy_100 | Mean | +0.10 [-0.20, +0.40] | 3 | undecided |\n"
GREEN = "| Green is better | Table 1, ours | toy_100 | Mean |  |  | undecided (not run: green) |\n"
OLD = "| Old is better | Table 1, ours | toy_100 | Mean | +9.00 [+8.00, +9.90] | 3 | holds |\n"
PAGE = HEAD + LONG + RED + BLUE + GREEN
REPORT = "table1_cross_modal_retrieval"


def claim(name, words, metric="Mean", profiles=("mini", "paper"), direction="higher", source="Table 1"):
    return Claim(
        name, "UniFashion", source, "ours", profiles, "toy_100", metric, direction, name, "other", words
    )


TOYS = [
    claim("long", "Long | wide is better"),
    claim("red", "Red is better", "KD", direction="lower"),
    claim("blue", "Blue is better"),
    claim("green", "Green is better"),
]


def publish(folder, report=REPORT, profile="mini", page=PAGE, full=True, rows=(), **facts):
    "A published run with a page, and a table of rows where there are any."
    home = folder / profile / report
    home.mkdir(parents=True, exist_ok=True)
    record = {
        "report": report,
        "inputs": {"train_pretrain seed=0": "0" * 16},
        "parameters": {"profile": profile, "seeds": "0", "full": full},
        "key": "0" * 16,
        "commit": "0123456789abcdef",
        "started": "2026-11-22T01:22:27+00:00",
    }
    (home / "run.json").write_text(json.dumps(record | facts))
    (home / "table.md").write_text(page)
    if rows:
        columns = ("row", "metric", "value", "seeds", "reported", "status")
        lines = [",".join(columns)]
        lines += [",".join(str(row.get(name, "")) for name in columns) for row in rows]
        (home / "table.csv").write_text("\n".join(lines) + "\n")
    return home


def listed(folder):
    return list(csv.DictReader(io.StringIO(v.list_runs(folder))))


# --- today's repository


def test_each_published_failure_has_a_reason_and_each_reason_a_failure():
    assert not v.failure_faults(v.scores(), v.read_failures())


def test_each_table_of_systems_has_claims_or_says_why_it_has_none():
    assert not v.claimless()
    assert all(len(reason.split()) >= 3 for reason in v.UNCOMPARED.values())


def test_the_list_of_published_runs_is_what_the_folders_hold():
    path = v.published_home() / "runs.csv"
    assert path.read_text(encoding="utf-8") == v.list_runs(), "write it again: make book"


def test_every_claim_is_asked_at_every_scale_that_it_names():
    claims = read_claims()
    found = v.scores()
    pairs = [(score.claim.id, score.profile) for score in found]
    assert pairs == [(c.id, profile) for c in claims for profile in c.profiles]
    assert len(claims) >= 40 and {score.state for score in found} <= set(v.STATES)
    assert sum(len(own) for own in v.by_item(found).values()) == len(found)
    assert all((v.published_home() / score.page).exists() for score in found)


def test_published_verdicts_reach_the_scoreboard():
    "As many as the pages hold, but those whose question has changed."
    shown = sum(score.state != "not run" for score in v.scores())
    on_pages = sum(len(v.answers_at(profile)) for profile in v.SCALES)
    assert shown == on_pages - len(v.unasked()) and shown >= 40


# --- what became of a claim


def test_states_are_those_of_the_page_and_nothing_is_invented(tmp_path):
    publish(tmp_path)
    found = v.scores(tmp_path, TOYS)
    states = {(score.claim.id, score.profile): score.state for score in found}
    assert [states[name, "mini"] for name in ("long", "red", "blue", "green")] == [
        "holds",
        "fails",
        "undecided",
        "not run",
    ]
    assert {states[toy.id, "paper"] for toy in TOYS} == {"not run"}
    first = found[0]
    assert (first.difference, first.seeds, first.page) == (
        "+2.00 [+1.00, +3.00]",
        "3",
        f"mini/{REPORT}/table.md",
    )
    assert not first.core and first.earlier


@pytest.mark.parametrize(
    "change", [{"protocol": "toy_full"}, {"metric": "R@1"}, {"kind": "paper"}, {"source": "Table 2"}]
)
def test_a_verdict_on_another_question_is_no_answer(tmp_path, change):
    publish(tmp_path)
    assert v.scores(tmp_path, [replace(TOYS[0], **change)])[0].state == "not run"
    assert ("mini", "Long | wide is better") in [
        (profile, row["claim"]) for profile, row in v.unasked(tmp_path, [replace(TOYS[0], **change)])
    ]


def test_core_runs_and_words_that_have_changed_are_said(tmp_path):
    publish(tmp_path, page=PAGE + OLD, full=False)
    assert v.scores(tmp_path, TOYS)[0].core
    assert [(profile, row["claim"]) for profile, row in v.unasked(tmp_path, TOYS)] == [
        ("mini", "Old is better")
    ]
    assert not v.unasked(tmp_path / "nothing", TOYS)


def test_a_claim_of_an_unknown_scale_or_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="claim long: 'smoke' is none of mini, open, paper"):
        v.scores(tmp_path, [claim("long", "Long", profiles=("smoke",))])
    with pytest.raises(ValueError, match="claim long: data/contents.csv has no UniFashion, Table 9"):
        v.by_item(v.scores(tmp_path, [claim("long", "Long", source="Table 9")]))


# --- the list, and what the scoreboard depends on


def test_the_list_leaves_the_scoreboard_out_and_notices_every_change(tmp_path):
    home = publish(tmp_path)
    before = v.list_runs(tmp_path)
    publish(tmp_path, "scoreboard")
    assert v.list_runs(tmp_path) == before
    assert {score.page for score in v.scores(tmp_path, TOYS)} == {f"mini/{REPORT}/table.md", ""}
    (row,) = listed(tmp_path)
    assert (row["report"], row["scale"], row["commit"]) == (REPORT, "full", "0123456")
    (home / "table.md").write_text(PAGE + OLD)
    assert v.list_runs(tmp_path) != before
    publish(tmp_path, commit="fedcba9876543210")
    assert listed(tmp_path)[0]["digest"] != row["digest"]


def test_the_mark_of_earlier_code_is_the_lists(tmp_path, monkeypatch):
    home = publish(tmp_path)
    monkeypatch.setattr(v, "is_current", lambda run, folder: run.folder == home)
    v.write_runs(tmp_path)
    monkeypatch.undo()
    assert not v.scores(tmp_path, TOYS)[0].earlier
    publish(tmp_path, page=PAGE + OLD)  # as it lies now, the list does not know it
    assert v.scores(tmp_path, TOYS)[0].earlier
    (tmp_path / "runs.csv").write_text("profile,report\nmini,table1\n")
    with pytest.raises(ValueError, match="runs.csv: its columns are not profile, report, .*: make book"):
        v.scores(tmp_path, TOYS)


def test_the_reports_key_hangs_on_the_list_and_not_on_its_own_page():
    (node,) = [node for node in plan("mini", only=("scoreboard",)) if node.header.report == "scoreboard"]
    assert not node.after and "outputs/published/runs.csv" in node.header.data
    own = Path("outputs", "published", "mini", "scoreboard")
    for name in node.header.data:
        assert Path(name) != own and Path(name) not in own.parents
    assert {"data/claims.csv", "data/contents.csv", "data/failures.csv"} <= set(node.header.data)


# --- tables without claims


def test_a_table_without_claims_is_found(tmp_path):
    items = [Item("UniFashion", "Table 1", "a", "table_one"), Item("UniFashion", "Figure 1", "b", "figure")]
    items += [Item("UniFashion", "Table 2", "c", "table_to_come")]
    write_report(tmp_path, "table_one", "run.table(rows, claims_table(verdicts))")
    write_report(tmp_path, "figure", "run.figure(picture, 'f')")
    reports = tmp_path / "nbs" / "reports"
    assert v.claimless(items, [claim("x", "X", source="Figure 1")], reports, {}) == [
        "table_one publishes a table and has no claim in data/claims.csv, nor a reason in UNCOMPARED",
        "figure has claims, and prints no verdict on them",
    ]
    assert not v.claimless(items, [claim("x", "X")], reports, {})
    assert v.claimless(items, [claim("x", "X")], reports, {"table_one": "why"}) == [
        "table_one has claims, and is excused from them"
    ]
    assert v.claimless(items, [claim("x", "X")], reports, {"gone": "why"}) == [
        "gone is excused from claims, and is no report of data/contents.csv"
    ]
    write_report(tmp_path, "table_one", "run.table(rows)")
    assert v.claimless(items, [claim("x", "X")], reports, {}) == [
        "table_one has claims, and prints no verdict on them"
    ]


# --- reasons


def test_a_missing_reason_and_an_idle_one_are_found(tmp_path):
    publish(tmp_path)
    found = v.scores(tmp_path, TOYS)
    assert v.failure_faults(found, {("red", "mini"): "why"}) == []
    assert v.failure_faults(found, {}) == ["red fails at mini, and data/failures.csv does not say why"]
    idle = {("red", "mini"): "why", ("red", "paper"): "why", ("velvet", "mini"): "why"}
    assert v.failure_faults(found, idle) == [
        "data/failures.csv: red does not fail at paper; remove its reason",
        "data/failures.csv: velvet is no claim",
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("claim,profile,why\nred,mini\n", "line 2: not three filled cells"),
        ("claim,profile,why\nred,mini,\n", "line 2: not three filled cells"),
        ("claim,profile,why\nred,mini,a\nred,mini,b\n", "line 3: red at mini is there twice"),
        ("claim,why\nred,a\n", "its columns are not claim, profile, why"),
    ],
)
def test_reasons_that_are_incomplete_are_refused(tmp_path, text, words):
    path = tmp_path / "failures.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"failures.csv.* {words}"):
        v.read_failures(path)
