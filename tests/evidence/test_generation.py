"""Table 3's systems, scores, tables and pages."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from unifashion.evidence import generation_tables as T
from unifashion.evidence.claims import Claim, read_claims, read_reported
from unifashion.evidence.generation_baselines import (ALIGNED, CAPTION, CEILING, ONCE, SDEDIT, SYSTEMS, build,
                                                      laid_on, strength_on)
from unifashion.evidence.generation_figures import page_by_page, picture_page, read_pictures
from unifashion.evidence.generation_scores import (asked_garments, catalogue_garments, drawn_garments,
                                                   read_attributes_of)
from unifashion.ground.core import load_profile
from unifashion.ground.distances import TRUTH, kernel_distance, redrawn
from unifashion.ground.files import save_arrays, write_json
from unifashion.models.attribute_reader import AttributeReader
from unifashion.models.checkpoints import seeded
from unifashion.models.latents import training_schedule
from unifashion.models.qformer import QFormer
from unifashion.models.unet import new_inpainter

RNG = np.random.default_rng(0)


def test_sdedit_begins_in_the_same_noise_on_every_schedule():
    published, deep = training_schedule(), training_schedule(beta_end=0.03)
    assert strength_on(published) == pytest.approx(0.8)
    begun = deep.alphas_cumprod[round(1000 * strength_on(deep)) - 1]
    assert begun.item() == pytest.approx(published.alphas_cumprod[799].item(), rel=0.02)
    assert strength_on(deep) < 0.6


def test_every_system_begins_from_the_foundation_and_its_aligned_adapters():
    with seeded(0, "qformer"):
        qformer = QFormer(12, 60, width=16, layers=2, heads=2, n_query=5, embed=8, max_words=40)
    base = new_inpainter(60, 4, (8, 6), (16, 16, 24), 16, 1).eval()
    aligned = {name: build(wiring, base, qformer, 12, 5) for name, wiring in ALIGNED.items()}
    for system in SYSTEMS.values():
        model = build(system.wiring, base, qformer, 12, 0, aligned)
        assert torch.equal(model.unet.conv_out.weight, base.unet.conv_out.weight)
        for name in model.adapters:
            own, known = (each.adapters[name].state_dict() for each in (model, aligned[name]))
            assert all(torch.equal(own[key], known[key]) for key in known)
            assert torch.equal(model.nothing[name], aligned[name].nothing[name])
    frozen = {name for name, p in aligned["queries"].named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"adapters", "nothing"}


def test_the_claims_of_table_3_name_systems_that_are_planned_and_measures_that_exist():
    planned = {*SYSTEMS, "MGD style, sketch in the shop", SDEDIT, CAPTION, CEILING}
    claims = [claim for claim in read_claims() if claim.source == "Table 3" and claim.kind == "ours"]
    assert claims
    for claim in claims:
        protocol, task = claim.protocol.split()
        assert {claim.better, claim.worse} <= planned and not {claim.better, claim.worse} & set(ONCE)
        assert T.MEASURES[claim.metric][2] == claim.direction and protocol in ("paired", "unpaired")
        assert task in ("try-on", "design")


def test_the_papers_table_is_there_whole():
    rows = read_reported("unifashion_table3")
    assert len(rows) == 5 * 2 + 3 * 3
    own = {(row["row"], row["protocol"], row["metric"]): row["reported"] for row in rows}
    assert own["UniFashion full", "vitonhd_unpaired", "KID"] == 0.67
    assert own["MGD", "mgd_unpaired", "CLIP-S"] == 30.75


def test_a_worn_sketch_lies_where_is_painted():
    people, sketches = RNG.integers(0, 255, (2, 1, 4, 3, 3), dtype=np.uint8)
    masks = np.zeros((1, 4, 3), bool)
    masks[0, 1] = True
    laid = laid_on(people, masks, sketches)
    assert np.array_equal(laid[0, 1], sketches[0, 1]) and np.array_equal(laid[0, 2:], people[0, 2:])


def test_patterns_of_plain_and_patterned_garments_are_counted_apart():
    values = {"upper_body kind": ["shirt", "hoodie"], "upper_body pattern": ["plain", "stripes"],
              "upper_body emblem": ["cat", "star"]}
    with seeded(0, "reader"):
        reader = AttributeReader(values, (8, 8, 8, 8)).eval()
    truth = {"upper_body kind": ["shirt", "shirt"], "upper_body pattern": ["plain", "stripes"],
             "upper_body emblem": ["cat", "star"],
             "upper_body hem": ["a", "b"]}  # of which the reader knows nothing
    told = read_attributes_of(reader, RNG.integers(0, 255, (2, 32, 24, 3), dtype=np.uint8), truth)
    assert np.isnan(told["pattern of plain"]).tolist() == [False, True]
    assert np.isnan(told["pattern of patterned"]).tolist() == [True, False]
    assert np.allclose(told["attributes"], (told["kind"] + told["pattern"]) / 2)  # emblems do not count
    assert set(told["emblem"]) <= {0, 1}


def test_drawn_garments_are_known_by_their_files_names():
    smoke = load_profile("smoke")
    garments = drawn_garments(smoke.world, smoke.formats)
    name = sorted(garments)[0]
    assert asked_garments([name], garments)["upper_body kind"] == [garments[name].kind]
    with pytest.raises(ValueError, match="garment 'x' is none of the"):
        asked_garments(["x"], garments)


@pytest.fixture
def saved(tmp_path):
    true = RNG.normal(size=(40, 6))
    noise = RNG.normal(size=true.shape)
    runs = []
    for seed in (0, 1):
        arrays = {f"unpaired|{T.TRUTH}|features": true}
        for name, far in (("near", 0.1), ("far", 1.)):
            arrays[f"unpaired|{name}|features"] = true + far * noise + far / 2 + 0.01 * seed
            arrays[f"unpaired|{name}|kind"] = np.where(np.arange(40) % 2, 1., np.nan) * (name == "near")
            arrays[f"unpaired|{name}|attributes"] = np.full(40, 0.5)
        folder = tmp_path / f"seed={seed}"
        singles = {key: own.astype(np.float32) for key, own in arrays.items()}
        save_arrays(folder / "scores.safetensors", singles)
        write_json(folder / "scores.json", {"planned": {"near": "design", "far": "design", "gone": "design",
                                                        "other": "try-on"}, "space": "toy"})
        runs.append(T.read_scores(folder))
    return runs


def test_a_number_is_the_mean_over_seeds_and_its_interval_holds_it(saved):
    rows = {(row["row"], row["metric"]): row for row in T.generation_rows(saved, "unpaired", "design", 200)}
    assert {row for row, _ in rows} == {"near", "far", "gone"}
    features = [run.protocols["unpaired"]["far"]["features"] for run in saved]
    truth = saved[0].truth["unpaired"]["features"]
    expected = np.mean([kernel_distance(own, truth) for own in features])
    cell = rows["far", "KD"]
    assert np.isclose(cell["value"], expected, atol=1e-3) and cell["low"] < cell["value"] < cell["high"]
    assert (cell["n"], cell["seeds"], cell["status"]) == (40, 2, "not comparable")
    assert rows["near", "kind"]["value"] == 100 and rows["far", "kind"]["value"] == 0
    assert rows["gone", "KD"]["status"] == "not run" and rows["gone", "KD"]["value"] is None
    assert rows["far", "FD"]["low"] is None


def test_some_pictures_are_judged_as_if_there_were_no_others(saved):
    protocol = next(iter(saved[0].protocols))
    systems = [name for name in saved[0].protocols[protocol]][:1]
    few = T.some_of(saved[0], protocol, [0, 2, 5], systems)
    whole, own = saved[0].protocols[protocol][systems[0]], few.protocols[protocol][systems[0]]
    assert all(np.array_equal(own[name], values[[0, 2, 5]], equal_nan=True) for name, values in whole.items())
    assert list(few.planned) == systems and list(few.protocols) == [protocol]
    assert all(len(values) == 3 for values in few.truth[protocol].values())


def test_a_line_by_numbers_has_the_numbers_that_were_run():
    cell = {"value": 1., "low": 0., "high": 2., "metric": "KD"}
    rows = [cell | {"row": f"ours, {k} retrieved"} for k in (0, 1, 3)]
    rows.append(cell | {"row": "ours, 2 retrieved", "value": None})
    names = [f"ours, {k} retrieved" for k in range(4)]
    panel = T.trend_figure(rows, {"ours": names, "nobody": ["another, 1 retrieved"]}, "made up").axes[0]
    assert panel.lines[0].get_xdata().tolist() == [0, 1, 3] and len(panel.lines[1].get_xdata()) == 0


def test_means_over_redrawn_sets_leave_out_what_was_not_asked():
    weights = redrawn(4, 300)
    told = T.redrawn_values("kind", {"kind": np.array([1., np.nan, 0., 1.])}, {}, weights)
    by_hand = (weights[:, 0] + weights[:, 3]) / (weights[:, 0] + weights[:, 2] + weights[:, 3])
    assert np.allclose(told, 100 * by_hand, equal_nan=True)


def claim(**changes):
    return replace(Claim("c", "UniFashion", "Table 3", "ours", ("mini",), "unpaired design", "KD", "lower",
                         "near", "far", "nearer"), **changes)


@pytest.mark.parametrize("changes, verdict, reason", [
    ({}, "holds", ""), ({"better": "far", "worse": "near"}, "fails", ""),
    ({"metric": "attributes", "direction": "higher"}, "undecided", ""),
    ({"worse": "gone"}, "undecided", "not run: gone"),
    ({"profiles": ("open",)}, "undecided", "not tested at")])
def test_claims_are_judged_on_paired_differences(changes, verdict, reason, saved):
    told = T.generation_verdict(claim(**changes), saved, "mini", 300)
    assert told.verdict == verdict and reason in told.reason


def test_seeds_that_cannot_be_paired_are_refused(saved):
    runs = T.runs_of(saved, "unpaired", "near")
    with pytest.raises(ValueError, match="3 seeds against 2"):
        T.gap("KD", runs + runs[:1], runs)


def test_a_page_has_a_row_a_question_and_texts_are_texts():
    pictures = RNG.integers(0, 255, (3, 8, 6, 3), dtype=np.uint8)
    page = picture_page({"one": pictures, "text": ["a", "b", "c"], "two": pictures})
    assert len(page.axes) == 9
    assert [len(place.images) for place in page.axes[:3]] == [1, 0, 1]
    assert page.axes[1].texts[0].get_text() == "a"


def test_pictures_of_a_protocol_that_was_not_painted_are_refused(tmp_path):
    save_arrays(tmp_path / "pictures.safetensors", {"unpaired|people": np.zeros((1, 2, 2, 3), np.uint8)})
    (tmp_path / "scores.json").write_text(json.dumps({"texts": {"unpaired": ["a"]}}))
    assert read_pictures(tmp_path, "unpaired")["texts"] == ["a"]
    with pytest.raises(ValueError, match="'paired'; there are unpaired"):
        read_pictures(tmp_path, "paired")


def test_catalogue_garments_are_those_of_the_files():
    smoke = load_profile("smoke")
    from unifashion.data.catalogues import open_catalogue
    test = open_catalogue(smoke.world, "test", workers=1).first_views()
    told = catalogue_garments(test.products[:3], smoke.world)
    kinds = [values for name, values in told.items() if name.endswith("kind")]
    assert [sum(values[row] is not None for values in kinds) for row in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("n, pages", [(2, {"": 2}), (4, {"": 2, "_2": 2}), (5, {"": 2, "_2": 2, "_3": 1})])
def test_pictures_are_paged_and_no_page_is_empty(n, pages):
    own = {TRUTH: np.arange(n), "texts": [str(i) for i in range(n)]}
    found = page_by_page(own)
    assert {name: len(page["texts"]) for name, page in found.items()} == pages
    assert np.concatenate([page[TRUTH] for page in found.values()]).tolist() == list(range(n))
