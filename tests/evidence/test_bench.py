"""Races: ratios from scripted times, results compared, limits by hand, both ways of every path alike."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

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


def test_fewer_steps_are_named_and_are_another_picture():
    base = new_inpainter(90, 4, (8, 6), (16, 16, 24), 32, 1).eval()
    torch.manual_seed(0)
    ids = torch.randint(6, 90, (1, PLACES))
    equal, fewer = (H.sampling_race(base, ids, (4, 8, 6), steps=3, few=1, longer=n) for n in (0, 12))
    assert equal.name == "one picture painted"
    assert fewer.name == "a picture painted, in 3 steps of DPM-Solver++"
    assert fewer.apart is None and "12 steps of DDIM" in fewer.form and fewer.goal == 0
    assert fewer.plain().shape == equal.plain().shape
    assert not torch.equal(fewer.plain(), equal.plain()) and torch.equal(fewer.ours(), equal.ours())


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


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def give_way():
    os.stat(".")


def call_often(seconds):
    "Nearly all of the time is spent here; the calls let other threads run."
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(20_000):
            pass
        give_way()


def test_a_function_is_told_by_the_time_it_takes_and_not_by_how_often_it_gives_way():
    told = S.where_time_goes(lambda: call_often(0.5))
    assert told["test_bench.call_often"] > 0.1  # else hardly a look in a hundred


def test_threads_that_are_started_are_looked_at_and_standing_ones_are_not():
    ended = threading.Event()
    standing = threading.Thread(target=ended.wait)
    standing.start()
    with ThreadPoolExecutor(1) as before:
        before.submit(len, ()).result()  # its thread is there now
        before.submit(call_often, 1.2)

        def work():
            helper = threading.Thread(target=spin, args=(0.3,))
            helper.start()
            helper.join()

        told = S.where_time_goes(work)
    ended.set()
    standing.join()
    assert next(iter(told)) == "test_bench.spin" and "test_bench.call_often" not in told


def test_what_ends_before_a_look_has_no_shares():
    assert S.where_time_goes(lambda: None, seconds=0.) == {}


def test_only_what_is_slower_says_where_its_time_goes(monkeypatch):
    scripted(monkeypatch, [1., 4.])
    slow = S.raced(race(ours=lambda: [spin(0.05) or 1.]), LIMITS, rounds=1)
    scripted(monkeypatch, [4., 1.])
    fast = S.raced(race(), LIMITS, rounds=1)
    assert fast["where"] == {} and S.slow_rows([fast]) == []
    assert S.slow_rows([slow, fast])[0]["where its time goes"].startswith("`test_bench.spin`")
