"From captions to Table 2: shares by hand, the three by three, rows that were not run, claims."

import json

import numpy as np
import pytest

from unifashion.evidence.caption_figures import read_captions
from unifashion.evidence.caption_tables import (
    attribute_shares,
    attribute_table,
    caption_rows,
    caption_table,
    results_of,
    style_figure,
    style_matrix,
    style_table,
)
from unifashion.evidence.caption_tables import caption_verdict as verdict_on
from unifashion.evidence.claims import FULL, Claim, read_reported
from unifashion.ground.caption_metrics import score_captions

STYLES = {
    "short": "{c} {k}",
    "professional": "{k} in {c}. with tonal stitching and a long story about {k}s",
    "key points": "this {k} comes in {c} the look is neat",
}
THINGS = [(c, k) for c in ("red", "navy", "green", "pink") for k in ("skirt", "coat", "jacket")]


def texts(turn=0):
    return {
        s: {f"p{i}": t.format(c=THINGS[(i + turn) % 12][0], k=THINGS[i][1]) for i in range(12)}
        for s, t in STYLES.items()
    }


SAVED = {
    "planned": ["Sees", "Half blind", "Missing"],
    "references": texts(),
    "systems": {"Sees": texts(), "Half blind": texts(3)},
    "truth": {
        f"p{i}": {"color": c, "kind": k, "pattern": "", "sleeve": ""} for i, (c, k) in enumerate(THINGS)
    },
    "rows": {},
}


def test_shares_by_hand():
    said = {"a": "a red skirt", "b": "coat in navy and green", "c": "a thing", "d": "pink coat"}
    truth = {
        "a": {"color": "red", "kind": "skirt"},
        "b": {"color": "navy", "kind": "coat"},
        "c": {"color": "red", "kind": ""},
        "d": {"color": "red", "kind": "skirt"},
    }
    shares = attribute_shares(said, truth, ("color", "kind", "sleeve"))
    assert (
        shares["color"][1:] == (25, 4)
        and shares["kind"] == (pytest.approx(200 / 3), pytest.approx(100 / 3), 3)
        and "sleeve" not in shares
    )
    with_stops = attribute_shares({"a": "Coat in red. Piping in navy."}, {"a": {"color": "red"}}, ("color",))
    assert with_stops == attribute_shares(
        {"a": "coat in red piping in navy"}, {"a": {"color": "red"}}, ("color",)
    ), "full stops do not help"


def test_plain_and_patterned_garments_are_asked_apart():
    truth = {
        "a": {"pattern": "plain"},
        "b": {"pattern": "plain"},
        "c": {"pattern": "stripes"},
        "d": {"pattern": "check"},
    }
    shares = attribute_shares(
        {"a": "striped shirt", "b": "red shirt", "c": "striped shirt", "d": "floral shirt"}, truth
    )
    assert shares == {"pattern, of patterned": (50, 50, 2), "pattern, of plain": (0, 50, 2)}


def test_a_blind_system_is_wrong_about_colours_alone():
    table = attribute_table([SAVED])
    blind = next(line for line in table.splitlines() if line.startswith("| Half blind"))
    assert "| 100 right, 0 wrong | 0 right, 100 wrong |" in blind


def test_the_matrix_is_that_of_the_whole_metric():
    styles, matrix = style_matrix([SAVED, SAVED], "Half blind")
    for i, a in enumerate(styles):
        for j, b in enumerate(styles):
            one = score_captions(
                predictions=SAVED["systems"]["Half blind"][a],
                references={k: [t] for k, t in SAVED["references"][b].items()},
            )
            assert matrix[i, j] == pytest.approx(one.value("CIDEr"))
    assert (matrix.argmax(0) == np.arange(3)).all()
    table = style_table(styles, matrix, SAVED, "Half blind").splitlines()
    assert (
        table[2].count("**") == 2
        and "| 2 " in table[2].replace("2.00", "2 ")
        and style_figure(styles, matrix).axes[0].images
    )


def test_rows_of_systems_that_did_not_run():
    results = results_of([SAVED])
    rows = caption_rows(
        results, SAVED["planned"], read_reported("unifashion_table2"), "mini", "drawn_captions", 50
    )
    missing = [r for r in rows if r["row"] == "Missing"]
    assert len(missing) == 4 and all(r["value"] is None and r["status"] == "not run" for r in missing)
    assert {r["status"] for r in rows if r["row"] == "Sees"} == {
        "not comparable"
    } and "| Missing |" in caption_table(rows, "mini")
    assert max(r["value"] for r in rows if r["row"] == "Sees") > 99


def test_claims_pair_items():
    results = results_of([SAVED])
    claim = Claim(
        "x",
        "UniFashion",
        "Table 2",
        "ours",
        ("mini",),
        "drawn_captions",
        "CIDEr",
        "higher",
        "Sees",
        "Half blind",
        "Seeing helps",
    )
    assert (
        verdict_on(claim, results, "mini", 200).verdict == "holds"
        and verdict_on(claim, results, "open").reason == "not tested at open"
    )
    assert (
        verdict_on(
            Claim(
                "x",
                "UniFashion",
                "Table 2",
                "paper",
                ("mini",),
                "drawn_captions",
                "CIDEr",
                "higher",
                FULL,
                "Sees",
                "",
            ),
            results,
            "mini",
        ).reason
        == f"not run: {FULL}"
    )


def test_half_written_systems_are_refused(tmp_path):
    broken = SAVED | {"systems": {"Sees": {"short": {"p0": "red skirt"}}}}
    (tmp_path / "captions.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="Sees, short: 11 items.*p1 for one"):
        read_captions(tmp_path)
    (tmp_path / "captions.json").write_text(json.dumps(SAVED))
    assert read_captions(tmp_path)["planned"] == SAVED["planned"]
