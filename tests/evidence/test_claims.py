"""Reported numbers, statuses, tables and verdicts:
what is copied right, what is never filled in, what decides a claim."""

import csv
import math
import subprocess
import sys

import numpy as np
import pytest

from unifashion.evidence import claims as c
from unifashion.ground import protocols as presets
from unifashion.ground import recall as m
from unifashion.ground.intervals import Interval

GALLERY = presets.PROTOCOLS["fashiongen_full"]
DUAL, BEFORE, CHANCE = "Dual encoder", "Generic Q-Former (before phase 1)", "Chance"


@pytest.fixture(scope="module")
def results():
    rng = np.random.default_rng(0)
    meaning = rng.normal(size=(150, 16))
    items = m.retrieval_set(range(150), [f"t{i}" for i in range(150)], ["s"] * 150)
    system = lambda noise: {
        GALLERY.name: [
            m.evaluate_retrieval(
                meaning @ (meaning + noise * rng.normal(size=meaning.shape)).T, items, GALLERY
            )
            for _ in range(3)
        ]
    }
    return {
        c.OURS: system(1.0),
        DUAL: system(2.0),
        BEFORE: system(2.0),
        CHANCE: {GALLERY.name: [m.evaluate_retrieval(np.zeros((150, 150)), items, GALLERY)]},
    }


# --- the papers' numbers


def test_table_1_is_whole_and_adds_up():
    rows = c.read_reported("unifashion_table1")
    by = {
        name: {r["metric"]: r["reported"] for r in rows if r["row"] == name}
        for name in {r["row"] for r in rows}
    }
    assert len(by) == 8 and all(set(cells) == set(m.METRICS) for cells in by.values())
    for cells in by.values():
        assert np.mean([cells[n] for n in m.RECALLS]) == pytest.approx(cells["Mean"], abs=0.0051)
    assert list(by[c.FULL].values()) == [71.44, 93.79, 97.51, 71.41, 93.69, 97.47, 87.55]
    assert {(r["table"], r["page"], r["protocol"]) for r in rows} == {("1", "7", "fashiongen_100")}


def test_table_5_gives_phase_1_its_mean():
    base = [r for r in c.reported_table1() if r["row"] == c.OURS]
    assert [(r["metric"], r["reported"], r["table"], r["system"]) for r in base] == [
        ("Mean", 87.38, "5", "Base")
    ]
    assert len(c.read_reported("unifashion_table5")) == 12  # four rows, of 16 cells 4 are empty


def test_reading_fails_with_file_and_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such.csv is not in .*; there are none"):
        c.read_reported("no_such", tmp_path)
    head = "paper,table,page,system,row,protocol,Mean\n"
    for name, text, words in (
        ("letters", head + "U,1,7,a,a,p,87;55\n", "letters.csv, line 2: Mean is '87;55'"),
        ("short", head + "U,1,7,a,a,p\n", "line 2: not as many"),
        ("long", head + "U,1,7,a,a,p,1,2\n", "line 2: not as many"),
        ("headless", "paper,table\nU,1\n", "column 'page' is missing"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
        with pytest.raises(ValueError, match=words):
            c.read_reported(name, tmp_path)


# --- status


@pytest.mark.parametrize(
    "given, status",
    [
        ((None, 87.4, "paper"), "not run"),
        ((None, None, "mini"), "not run"),
        ((87.4, 87.4, "mini"), "not comparable"),
        ((87.4, 87.4, "open"), "not comparable"),
        ((87.4, 87.4, "smoke"), "not comparable"),
        ((87.4, None, "paper"), "not comparable"),
        ((86.5, 87.4, "paper"), "reproduced"),
        ((86.3, 87.4, "paper"), "differs"),
        ((86.3, 87.4, "paper", 85.0, 87.6), "reproduced"),
        ((80.0, 87.4, "paper", 78.0, 82.0), "differs"),
    ],
)
def test_status(given, status):
    assert c.row_status(*given) == status


# --- tables


def test_table_rows_never_fill_a_blank(results):
    rows = c.table_rows(results, c.reported_table1(), "mini", draws=50)
    assert all((r["value"] is None) == (r["status"] == "not run") == (r["signature"] == "") for r in rows)
    ours = {r["metric"]: r for r in rows if r["row"] == c.OURS and r["protocol"] == "fashiongen_full"}
    assert set(ours) == set(m.METRICS) and all(
        r["reported"] is None and r["low"] <= r["value"] <= r["high"] for r in ours.values()
    )
    assert ours["Mean"]["seeds"] == 3 and ours["Mean"]["n"] == 300 and ours["T2I R@1"]["n"] == 150
    printed = [
        r for r in rows if r["protocol"] == "fashiongen_100"
    ]  # nothing measured under it: the paper's rows alone
    assert {r["status"] for r in printed} == {"not run"} and len({r["row"] for r in printed}) == 9
    assert sum(r["reported"] is not None for r in printed) == 8 * 7 + 1
    assert [r["status"] for r in rows if r["row"] == c.FULL and r["protocol"] == "fashiongen_full"] == [
        "not run"
    ] * 7
    assert {r["status"] for r in rows if r["value"] is not None} == {"not comparable"}
    assert (
        list(rows[0])[:13]
        == "paper table row protocol metric signature value low high n seeds reported status".split()
    )


def test_the_page_shows_both_and_mixes_neither(results):
    rows = c.table_rows(
        {name: {"fashiongen_100": by[GALLERY.name]} for name, by in results.items()},
        c.reported_table1(),
        "mini",
        draws=50,
    )
    page = c.table_page(rows, "Table 1", here="mini")
    lines = [line for line in page.splitlines() if line.startswith(f"| {c.OURS}")]
    assert len(lines) == 2 and "*87.38*" in lines[0] and "*" not in lines[1] and "not comparable" in lines[1]
    assert page.count("*paper*") == 9 and "recall|v:" in page and "3 training seeds" in page


# --- claims


def test_committed_claims_are_sound():
    claims = c.read_claims()
    assert len({x.id for x in claims}) == len(claims) and {x.kind for x in claims} == {"paper", "ours"}
    assert all(
        x.protocol in presets.PROTOCOLS and x.metric in m.METRICS for x in claims if x.source == "Table 1"
    )
    assert all("smoke" not in x.profiles and set(x.profiles) <= {"mini", "open", "paper"} for x in claims)
    printed = {(r["row"], r["metric"]): r["reported"] for r in c.reported_table1()}
    for x in claims:
        if x.kind == "paper" and x.source == "Table 1":
            assert printed[x.better, x.metric] > printed[x.worse, x.metric]
    captions = {(r["row"], r["metric"]): r["reported"] for r in c.read_reported("unifashion_table2")}
    of_captions = [x for x in claims if x.source == "Table 2"]
    assert {x.protocol for x in of_captions} == {"fashiongen_captions", "drawn_captions", "kagl_captions"}
    assert all(
        captions[x.better, x.metric] > captions[x.worse, x.metric] for x in of_captions if x.kind == "paper"
    )
    for profile, protocols in (
        ("mini", {"fashiongen_100", "fashiongen_full"}),
        ("open", {"kagl_100", "kagl_full"}),
    ):
        own = {x.protocol for x in claims if profile in x.profiles and x.source == "Table 1"}
        assert own == protocols


def claim(**changes):
    fields = dict(
        id="x",
        paper="U",
        source="Table 1",
        kind="ours",
        profiles=("mini",),
        protocol=GALLERY.name,
        metric="Mean",
        direction="higher",
        better=c.OURS,
        worse=DUAL,
        statement="ours above the dual encoder",
    )
    return c.Claim(**{**fields, **changes})


def test_verdicts(results):
    def verdict(profile="mini", **changes):
        return c.retrieval_verdict(claim(**changes), results, profile, draws=200)

    assert verdict().verdict == "holds" and verdict().seeds == 3
    assert verdict(better=DUAL, worse=c.OURS).verdict == "fails"
    assert verdict(better=DUAL, worse=c.OURS, direction="lower").verdict == "holds"
    assert verdict(worse=CHANCE).verdict == "holds"  # three seeds against a row that has one
    assert verdict(better=DUAL, worse=BEFORE).verdict == "undecided"
    assert (verdict(better=c.FULL).verdict, verdict(better=c.FULL).reason) == (
        "undecided",
        f"not run: {c.FULL}",
    )
    assert (
        verdict(profile="smoke").reason == "not tested at smoke"
        and verdict(protocol="kagl_100").interval is None
    )


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (0.1, 2, "holds"),
        (-2, -0.1, "fails"),
        (-1, 1, "undecided"),
        (0, 1, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_judge(low, high, verdict):
    assert c.judge(Interval(0, low, high)) == verdict
    assert c.judge(Interval(0, -high, -low), "lower") == verdict


def test_verdicts_are_shown(results):
    verdicts = [
        c.retrieval_verdict(claim(), results, "mini", draws=50),
        c.retrieval_verdict(claim(better=c.FULL), results, "mini"),
    ]
    assert [t.get_text() for t in c.claims_figure(verdicts).axes[0].get_yticklabels()] == [
        f"{name} > {DUAL}, fashiongen_full" for name in (c.OURS, c.FULL)
    ]
    assert "| holds |" in c.claims_table(
        verdicts
    ) and "undecided (not run: UniFashion full)" in c.claims_table(verdicts)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"direction": "up"}, "line 2: direction 'up' is not higher or lower"),
        ({"kind": "theirs"}, "line 2: kind 'theirs'"),
        ({}, "line 3: the id 'x' is used twice"),
    ],
)
def test_bad_claims_are_named(tmp_path, change, words):
    row = {**vars(claim()), "profiles": "mini open", **change}
    with (tmp_path / "claims.csv").open("w") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerows([row, row])
    with pytest.raises(ValueError, match=words):
        c.read_claims(tmp_path / "claims.csv")


def test_torch_stays_out():
    code = (
        "import sys, unifashion.evidence.claims; bad = {'torch', 'transformers', 'diffusers'} & "
        "set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
