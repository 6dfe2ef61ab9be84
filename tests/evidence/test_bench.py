"""Races: ratios from scripted times, results compared, limits by hand, both ways of every path alike."""

import numpy as np
import pytest
import torch

from unifashion.evidence import hot_paths as H
from unifashion.evidence import published_sizes as P
from unifashion.evidence import bench as S
from unifashion.models.checkpoints import seeded
from unifashion.models.encoders import ImageEncoder
from unifashion.models.losses import max_over_queries
from unifashion.models.qformer import QFormer
from unifashion.models.unet import PLACES, new_inpainter

LIMITS = S.Limits(operations=100., bytes=10.)


def race(plain=lambda: [1.], ours=lambda: [1.], **settings):
    return S.Race("sums", "sums", "a loop", plain, ours, **{"plain_items": 2, "our_items": 4} | settings)


def scripted(monkeypatch, seconds):
    left = iter(seconds)
    monkeypatch.setattr(S, "timed", lambda work: next(left))


def test_a_ratio_is_the_median_of_the_rounds_a_unit(monkeypatch):
    scripted(monkeypatch, [4., 2., 6., 2., 20., 4.])  # plain, ours; two units against four
    row = S.raced(race(operations=10., moved=1., goal=5.), LIMITS, rounds=3)
    assert (row["ratio"], row["low"], row["high"]) == (6., 4., 10.)  # of 4, 6 and 10
    assert row["seconds"] == 0.5 and row["of_limit"] == pytest.approx(0.1 / 0.5)
    assert S.goal_text(row) == "5: reached"


@pytest.mark.parametrize("operations, moved, seconds", [(200., 1., 2.), (1., 50., 5.), (0., 0., 0.)])
def test_the_limit_is_what_takes_longer(operations, moved, seconds):
    assert LIMITS.least_seconds(operations, moved) == seconds


def test_without_work_that_is_counted_there_is_no_share_of_a_limit(monkeypatch):
    scripted(monkeypatch, [1., 1.])
    assert S.raced(race(), LIMITS, 1)["of_limit"] is None


@pytest.mark.parametrize("other", [2., float("nan")])
def test_a_way_with_another_result_reaches_no_goal(other, monkeypatch):
    scripted(monkeypatch, [9., 1.])
    row = S.raced(race(ours=lambda: [other], allowed=0.5, goal=3.), LIMITS, 1)
    assert row["ratio"] > 3 and not row["same"] and S.goal_text(row) == "3: missed"
    assert S.speed_rows([row])[0]["results apart"].startswith("differ: ")


def test_things_that_cannot_be_compared_are_not(monkeypatch):
    scripted(monkeypatch, [1., 1.])
    row = S.raced(race(ours=lambda: "a shirt", apart=None), LIMITS, 1)
    assert row["apart"] is None and S.speed_rows([row])[0]["results apart"] == ""


def test_a_table_says_equal_missed_and_how_far(monkeypatch):
    scripted(monkeypatch, [1., 1., 1., 1.])
    same = S.raced(race(goal=3.), LIMITS, 1)
    near = S.raced(race(ours=lambda: [1.001], allowed=0.01, operations=1.), LIMITS, 1)
    told = S.speed_rows([same, near])
    assert [told[0][name] for name in ("results apart", "goal", "of the limit")] == ["equal", "3: missed", ""]
    assert told[1]["results apart"] == "1e-03 (allowed 1e-02)" and told[1]["of the limit"] == "4 %"


def test_a_probe_finds_something():
    limits = S.probed_limits(64, 1, 1)
    assert limits.operations > 0 and limits.bytes > 0


@pytest.fixture(scope="module")
def qformer():
    with seeded(0, "qformer"):
        return QFormer(image_width=12, vocab=60, width=16, layers=2, heads=2, n_query=5, embed=8,
                       max_words=14)


@pytest.mark.parametrize("products", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2]])
def test_one_pass_of_short_texts_is_three_passes_of_long_ones(qformer, products):
    torch.manual_seed(1)
    pictures = np.random.default_rng(0).integers(0, 255, (6, 8, 6, 3), dtype=np.uint8)

    def tokens(body, seen):
        return body(seen.flatten(1)).unflatten(1, (5, 12))
    encoder = ImageEncoder(torch.nn.Linear(144, 60), tokens, (8, 6), 12, (0.5,) * 3, (0.5,) * 3, "toy")
    words = {"ids": torch.randint(6, 60, (6, 14)), "mask": torch.arange(14).expand(6, -1) < 8,
             "product": torch.tensor(products)}
    own = H.phase1_race(qformer, encoder, pictures, words, 4)
    assert own.apart(own.plain(), own.ours()) < 1e-5 and own.operations > 0
    assert all(p.grad is None for p in qformer.parameters())  # nothing is left behind


def test_a_batch_is_painted_as_its_pictures_alone():
    base = new_inpainter(90, 4, (8, 6), (16, 16, 24), 32, 1).eval()
    torch.manual_seed(0)
    own = H.sampling_race(base, torch.randint(6, 90, (3, PLACES)), (4, 8, 6), steps=3, few=3)
    assert own.apart(own.plain(), own.ours()) < 1e-3


def test_stores_give_what_their_libraries_give(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (5, 12, 9, 3), dtype=np.uint8)
    for own in H.reading_races(pictures, tmp_path / "shop", 2):
        assert np.array_equal(own.ours(), pictures) and np.array_equal(own.plain(), pictures)


def test_a_search_in_blocks_is_a_search_at_once():
    torch.manual_seed(0)
    items = torch.nn.functional.normalize(torch.randn(50, 4, 8), dim=-1)
    whole, blocks = (max_over_queries(items, items[:3, 0], entries) for entries in (2**26, 64))
    assert torch.allclose(whole, blocks, atol=1e-6)
    for own in H.search_races(items, items[:3, 0]):
        assert np.allclose(own.plain(), own.ours(), atol=1e-6)
        assert np.array_equal(own.ours().argmax(0), [0, 1, 2])  # every query is a vector of its own item
        assert own.operations == 2 * 50 * 4 * 8 * 3


def test_a_resampled_catalogue_is_seeded_and_of_unit_vectors():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(30, 3, 6)) + 2
    measured /= np.linalg.norm(measured, axis=-1, keepdims=True)
    items = H.resampled_catalogue(measured, 100, block=7)
    assert torch.allclose(items.norm(dim=-1), torch.ones(100, 3), atol=1e-5)
    assert torch.equal(items, H.resampled_catalogue(measured, 100, block=7))
    assert not torch.equal(items, H.resampled_catalogue(measured, 100, seed=1, block=7))
    assert (items.mean((0, 1)) - torch.from_numpy(measured.mean((0, 1)))).abs().max() < 0.1


def test_texts_are_counted_where_they_differ():
    assert H.unequal(["a", "b", "c"], ["a", "x"]) == 1


def test_the_work_of_published_sizes():
    rows = {row["what"]: row for row in P.published_work()}
    plms, fast = (rows[f"design, 512 x 384, {name}, {calls} calls"] for name, calls in P.CALLS.items())
    assert plms["operations"] - fast["operations"] == pytest.approx(31 * P.step_operations())
    assert plms["reported"] and not fast["reported"]
    unet_and_more = plms["bytes"] / 51 / 2
    assert 859_546_884 < unet_and_more < 2 * 859_546_884  # the copy and its attention are smaller than it
    assert rows["caption, 7B"]["bytes"] == pytest.approx(2 * 6.6e9, rel=0.05)
