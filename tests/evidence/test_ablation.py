"""Table 5: what is asked of every Q-Former, and how differences are told."""

import json

import numpy as np
import pytest
import torch

from unifashion.evidence import ablation_tables as a
from unifashion.evidence.claims import Claim, read_claims, read_reported
from unifashion.evidence.composed_figures import Imagined, imagined_page
from unifashion.evidence.examination import SlotRows, Voices
from unifashion.ground.distances import TRUTH
from unifashion.ground.composed_recall import Questions, composed_result
from unifashion.ground.core import Language
from unifashion.ground.files import save_arrays, write_json
from unifashion.ground.intervals import Interval
from unifashion.ground.protocols import RetrievalProtocol
from unifashion.unified.composed_systems import BASE, BEFORE, CROSS, HALVES, OURS, SYSTEMS, folder_of

WHOLE = RetrievalProtocol("whole", negatives=0)


def invented(folder, strength, rows=(BEFORE, BASE)):
    "A run of train_ablation of a few garments, in which a row is as good as `strength` says."
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(20)]
    noise = rng.normal(size=(20, 20))
    save_arrays(folder / "similarity.safetensors",
                {row: (strength[row] * np.eye(20) + noise).astype("float16") for row in rows})
    save_arrays(folder / "items.safetensors", {"image_products": names, "text_products": names,
                                               "subcategories": ["all"] * 20,
                                               "texts": [f"text {n}" for n in names]})
    meant = {name: f"a red dress with {name} and long sleeves" for name in names}
    said = {row: {name: text if i < strength[row] else "a blue shirt" for i, (name, text) in
                  enumerate(meant.items())} for row in rows}
    told = {"captions": said, "meant": meant, "composed": said, "wished": meant}
    write_json(folder / "captions.json", told)
    truth = rng.normal(size=(20, 4)).astype("float32")
    scores = {}
    for kind in ("garments", "composed"):
        scores[f"{kind}|{TRUTH}|features"] = truth
        for row in rows:
            shift = np.float32(1 / strength[row])
            scores[f"{kind}|{row}|features"] = truth + shift
            scores[f"{kind}|{row}|attributes"] = np.full(20, strength[row] / 20, "float32")
    save_arrays(folder / "scores.safetensors", scores)
    write_json(folder / "scores.json", {"planned": dict.fromkeys(rows, "design"), "space": "toy", "why": ""})


def answers(right):
    "A composed result of which `right` of ten questions are answered."
    questions = Questions(range(60), range(10, 20), range(10), [f"q{i}" for i in range(10)], "dress")
    scores = np.zeros((10, 60))
    scores[:, 20:] = 1
    scores[range(right), range(right)] = 2
    return {"dress": composed_result(scores, questions)}


@pytest.fixture
def runs(tmp_path):
    strength = {BEFORE: 2, BASE: 16}
    invented(tmp_path, strength)
    composed = {BASE: answers(8), HALVES[2]: answers(3), "SPRC style": answers(9)}
    return a.read_ablation([a.Sources(tmp_path, composed)], WHOLE)


def test_every_column_is_read_for_every_row_that_was_run(runs):
    assert list(runs) == list(a.COLUMNS)
    for column, rows in runs.items():
        assert set(rows) == {BEFORE, BASE}, column


def test_before_phase_2_composed_retrieval_is_that_of_the_sum(runs):
    assert runs["CIR"][BEFORE][0]["dress"].hits(10).mean() == pytest.approx(0.3)


def test_the_better_row_is_better_in_every_column(runs):
    for name, column in a.COLUMNS.items():
        apart = column.apart(runs[name][BASE], runs[name][BEFORE], 50)
        assert apart.value > 0 if column.better == "higher" else apart.value < 0, name


def test_rows_of_the_table_say_what_was_not_run(runs):
    rows = a.ablation_rows(runs, read_reported("unifashion_table5"), "mini", 50)
    measured = {row["row"]: row for row in rows if row["value"] is not None}
    assert set(measured) == {BEFORE, BASE}
    assert {row["metric"]: row["n"] for row in rows if row["row"] == BASE} == {
        "CMR": 40, "CIR": 10} | dict.fromkeys(list(a.COLUMNS)[2:], 20)
    assert all(row["status"] == "not run" for row in rows if row["row"] == "UniFashion, taught by both")
    papers = {row["row"]: row["reported"] for row in rows if row["metric"] == "FIG FID"}
    assert papers == {"Base+LLM+diff.": 12.43}, "an FID stands in no column of ours"


def test_claims_are_tested_on_their_column(runs):
    claim = Claim("x", "UniFashion", "Table 5", "ours", ("mini",), "ablation", "FIG KD", "lower", BASE,
                  BEFORE, "Phase 2 paints better")
    assert a.ablation_verdict(claim, runs, "mini", 50).verdict == "holds"
    absent = a.ablation_verdict(claim, {"FIG KD": {}}, "mini", 50)
    assert absent.verdict == "undecided" and "not run" in absent.reason


def test_claims_name_rows_and_columns_that_there_are():
    own = [claim for claim in read_claims() if claim.source == "Table 5" and claim.protocol == "ablation"]
    assert len(own) >= 9
    for claim in own:
        assert claim.metric in a.COLUMNS and {claim.better, claim.worse} <= set(CROSS), claim.id
        assert claim.direction == a.COLUMNS[claim.metric].better, claim.id


def test_the_cross_is_whole():
    "Each of the four cells is trained; captions are on or off, and so is the diffusion model."
    cells = {(SYSTEMS[row].captions, SYSTEMS[row].diffusion) for row in CROSS
             if row in SYSTEMS and SYSTEMS[row].language}
    assert cells == {(False, False), (False, True), (True, False), (True, True)}


def test_folders_of_systems_are_apart():
    folders = [folder_of(name) for name in SYSTEMS]
    assert len(set(folders)) == len(SYSTEMS) and folder_of(OURS) == "unifashion-ours"


@pytest.mark.parametrize("interval, seeds, needed", [
    (Interval(-0.8, -3.2, 1.6), 3, 27),  # the square of the arm that crosses zero, in parts of the difference
    (Interval(1.0, -0.1, 1.5), 3, 4),    # one more at least: these have not told
    (Interval(0.8, -1.6, 3.2), 1, None),  # one seed has no spread
    (Interval(0.0, -1.0, 1.0), 3, None),
    (Interval(float("nan"), -1.0, 1.0), 3, None),
])
def test_seeds_needed(interval, seeds, needed):
    assert a.seeds_needed(interval, seeds) == needed


def test_nothing_but_slots_is_shown():
    slots = np.random.default_rng(0).normal(size=(5, 4, 8)).astype("float16")
    grey = torch.full((1, 3, 2, 2), 0.25)
    batch = SlotRows(slots, grey).rows([4, 1])
    assert set(batch) == {"slots", "agnostic", "mask"}
    assert torch.equal(batch["slots"], torch.from_numpy(slots[[4, 1]]).float())
    assert torch.equal(batch["agnostic"], grey.expand(2, 3, 2, 2)) and (batch["mask"] == 1).all()


def test_who_has_no_brush_says_so():
    with pytest.raises(ValueError, match="no denoiser was aligned"):
        Voices(None, Language(), "key points").paint(np.zeros((1, 4, 8)), 64, 48)


def test_a_page_of_what_was_imagined_needs_no_painter():
    picture = np.zeros((8, 6, 3), np.uint8)
    rows = [Imagined(picture, "is red", "a red dress", None, picture),
            Imagined(picture, "is long", "a long dress", picture, picture)]
    page = imagined_page(rows, "two")
    heads = [axes.get_title(loc="left") for axes in page.axes[:5]]
    assert heads == ["shown", "asked", "said of the answer", "painted", "meant"]
    assert [len(axes.images) for axes in page.axes[3::5]] == [0, 1]


def test_sources_name_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="items.safetensors"):
        a.results_of(a.Sources(tmp_path / "nothing", {}), WHOLE)
