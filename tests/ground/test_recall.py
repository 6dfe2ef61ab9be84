"""Recall under every protocol:
hand-computed cases, invariants, parity with torchmetrics, intervals, re-ranking, failures."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from unifashion.ground import intervals as iv
from unifashion.ground import protocols as presets
from unifashion.ground import recall as m
from unifashion.ground.core import Evaluation

SHOP = m.retrieval_set(
    ["A", "A", "B", "C", "D", "E", "F"],
    ["red shirt", "red shirt", "blue shirt", "red shirt", "boots", "sandals", "sneakers"],
    ["shirts"] * 4 + ["shoes"] * 3,
)


def world(products=60, kinds=3, views=2, seed=0, equal_texts=0, dims=8, noise=1.0):
    "A set of `products` with `views` pictures each, and similarities without ties."
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(products), views)
    texts = [f"text {p if p >= equal_texts else p % 2 * kinds}" for p in who]
    meaning = rng.normal(size=(products, dims))
    images = meaning[who] + noise * rng.normal(size=(len(who), dims))
    return m.retrieval_set(who, texts, [f"kind {p % kinds}" for p in who]), images @ (
        meaning + noise * rng.normal(size=meaning.shape)
    ).T


# --- ranks and ties


@pytest.mark.parametrize("above, tied, level", list(itertools.product((0, 2), (0, 1, 4), (1, 2, 3))))
def test_expected_hits_equal_the_average_over_all_orders_of_the_ties(above, tied, level):
    ranks = m.Ranks(*(np.array([v]) for v in (above, tied, level)), product=np.array([0]))
    firsts = [min(places) for places in itertools.combinations(range(tied + level), level)]
    for k in (1, 2, 3, 5, 10):
        assert ranks.hits(k)[0] == pytest.approx(np.mean([above + first < k for first in firsts]))
    assert ranks.rank()[0] == pytest.approx(above + 1 + np.mean(firsts))


@pytest.mark.parametrize("name", ["fashiongen_100", "fashiongen_full", "kagl_100", "kagl_full"])
def test_constant_scorer_gets_chance_and_oracle_gets_everything(name):
    items, _ = world(products=110, kinds=1, equal_texts=4)
    protocol = presets.find_protocol(name, queries=50, repeats=2)
    constant = m.evaluate_retrieval(np.zeros((220, 110)), items, protocol).recalls()
    own = (items.owner[:, None] == np.arange(110)).astype(float)
    assert min(m.evaluate_retrieval(own, items, protocol).recalls().values()) == 100
    if protocol.negatives:
        assert constant["I2T R@1"] == pytest.approx(100 / 101) and constant["T2I R@10"] == pytest.approx(
            1000 / 101
        )
    elif name == "fashiongen_full":
        assert constant["I2T R@5"] == pytest.approx(500 / 110)
        assert constant["T2I R@1"] == pytest.approx(100 * 2 / 220)  # either of two views
    noise = np.random.default_rng(1).normal(size=(220, 110))
    assert abs(m.evaluate_retrieval(noise, items, protocol).recalls()["Mean"] - constant["Mean"]) < 3


def test_a_folder_of_three_products_is_ranked_whole():
    [protocol] = presets.profile_protocols("folder", Evaluation(), full=True)
    items = m.retrieval_set("aabc", ["red", "red", "red", "blue"], ["", "", "", ""])
    similarity = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]])
    recalls = m.evaluate_retrieval(similarity, items, protocol).recalls()
    assert protocol.name == "folder_full" and recalls["I2T R@5"] == 100
    assert recalls["I2T R@1"] == 75  # equal texts are one answer; the blue picture alone is wrong


def test_order_of_rows_and_columns_does_not_matter():
    items, similarity = world(views=3)
    similarity = np.round(similarity)  # many ties
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(180), rng.permutation(60)
    shuffled = m.RetrievalSet(
        *(
            tuple(np.array(v)[i])
            for v, i in (
                (items.image_products, rows),
                (items.text_products, columns),
                (items.subcategories, columns),
                (items.texts, columns),
            )
        )
    )
    full = presets.PROTOCOLS["fashiongen_full"]
    a, b = (
        m.evaluate_retrieval(similarity, items, full),
        m.evaluate_retrieval(similarity[rows][:, columns], shuffled, full),
    )
    assert a.recalls() == pytest.approx(b.recalls()) and a.ranking() == pytest.approx(b.ranking())


def test_slices_do_not_matter():
    items, similarity = world()
    for d in m.DIRECTIONS:
        a, b = (m.full_ranks(similarity, items, "product", d, rows=rows) for rows in (7, 1000))
        assert all((getattr(a, f) == getattr(b, f)).all() for f in ("above", "tied", "level", "product"))


def test_half_precision_shifts_no_recall():
    items, similarity = world(products=600, kinds=2, dims=24, noise=0.8)
    tight = 0.8 + similarity / np.abs(similarity).max() / 50  # cosines that all lie near 0.8
    full = presets.PROTOCOLS["fashiongen_full"]
    exact, rounded = (
        m.evaluate_retrieval(s, items, full).recalls() for s in (tight, tight.astype(np.float16))
    )
    assert (m.full_ranks(tight.astype(np.float16), items, "product", "i2t").tied > 0).mean() > 0.2
    assert abs(exact["Mean"] - rounded["Mean"]) < 1.0


# --- the protocols


def test_equal_texts_count_under_kagl_and_any_view_counts_for_texts():
    S = np.array(
        [
            [9, 4, 9, 1, 2, 1],
            [5, 6, 5, 1, 1, 1],
            [3, 8, 3, 2, 1, 1],
            [7, 2, 7, 8, 1, 1],
            [1, 1, 1, 9, 3, 2],
            [1, 1, 1, 6, 5, 4],
            [1, 2, 1, 3, 2, 7.0],
        ]
    )
    fashiongen, kagl = (
        m.evaluate_retrieval(S, SHOP, presets.PROTOCOLS[n]).recalls()
        for n in ("fashiongen_full", "kagl_full")
    )
    assert fashiongen["I2T R@1"] == pytest.approx(100 * 3.5 / 7) and kagl["I2T R@1"] == pytest.approx(
        100 * 4 / 7
    )
    assert fashiongen["T2I R@1"] == pytest.approx(100 * 5 / 6) and kagl["T2I R@1"] == 100
    swapped = S[[1, 0, 2, 3, 4, 5, 6]]  # which of A's views matches best is all the same to a text
    assert m.evaluate_retrieval(swapped, SHOP, presets.PROTOCOLS["fashiongen_full"]).recalls()[
        "T2I R@1"
    ] == pytest.approx(100 * 5 / 6)
    assert fashiongen["Mean"] == pytest.approx(np.mean([fashiongen[n] for n in m.RECALLS]))


@pytest.mark.parametrize("family, match", [("fashiongen", "product"), ("kagl", "text")])
@pytest.mark.parametrize("direction", m.DIRECTIONS)
def test_galleries_hold_one_right_answer_and_others_of_the_sub_category(family, match, direction):
    items, _ = world(products=90, kinds=3, equal_texts=6)
    protocol = presets.RetrievalProtocol(family, negatives=12, match=match, queries=40, repeats=3)
    g = m.draw_galleries(items, protocol, direction, seed=5)
    assert g.candidates.shape == (120, 13) and all(len(set(row)) == 13 for row in g.candidates)
    product = items.owner[g.candidates] if direction == "t2i" else g.candidates
    assert (product[:, 0] == g.product).all() and (product[:, 1:] != g.product[:, None]).all()
    assert (items.subcategory_code[product] == items.subcategory_code[g.product][:, None]).all()
    same_text = items.text_code[product[:, 1:]] == items.text_code[g.product][:, None]
    assert not same_text.any() if match == "text" else True
    assert len(set(g.query[:40])) == 40  # no query twice in a repeat


def test_draws_follow_the_seed_and_nothing_else():
    items, similarity = world()
    protocol = presets.RetrievalProtocol("fashiongen", negatives=10, queries=30, repeats=2)
    draw = lambda seed, d="i2t": m.draw_galleries(items, protocol, d, seed)
    assert (draw(1).candidates == draw(1).candidates).all()
    assert not np.array_equal(draw(1).query, draw(2).query) and not np.array_equal(
        draw(1).query[:30], draw(1).query[30:]
    )
    assert not np.array_equal(
        items.owner[draw(1).query], draw(1, "t2i").query
    )  # the directions are drawn apart
    a, b = (m.evaluate_retrieval(s, items, protocol, seed=3) for s in (similarity, -similarity))
    assert (a.ranks["i2t"].product == b.ranks["i2t"].product).all() and a.signature == b.signature


def test_every_negative_is_equally_likely():
    allowed = np.tile([[True] * 5 + [False]], (20_000, 1))
    counts = np.bincount(m.pick(np.random.default_rng(0), allowed, 2).ravel(), minlength=6)
    assert counts[5] == 0 and abs(counts[:5] / 20_000 - 0.4).max() < 0.015


def test_small_sub_categories_stop_skip_or_fill():
    items = m.retrieval_set(range(25), [f"t{i}" for i in range(25)], ["big"] * 20 + ["tiny"] * 5)
    protocol = presets.RetrievalProtocol("fashiongen", negatives=10)
    with pytest.raises(ValueError, match="'tiny' has 5 products of 11"):
        m.draw_galleries(items, protocol, "i2t")
    assert set(m.draw_galleries(items, replace(protocol, small="skip"), "t2i").product) == set(range(20))
    filled = m.draw_galleries(items, replace(protocol, small="fill"), "i2t")
    tiny = filled.candidates[filled.product >= 20]
    assert len(filled.query) == 25 and all(set(range(20, 25)) <= set(row) for row in tiny)
    assert (filled.candidates[filled.product < 20] < 20).all()
    with pytest.raises(ValueError, match="no sub-category"):
        m.draw_galleries(items, replace(protocol, negatives=30, small="skip"), "i2t")


def test_kagl_100_takes_the_sub_categories_that_are_large_enough():
    sizes = {"Topwear": 120, "Shoes": 101, "Belts": 100, "Ties": 3}
    subs = [name for name, n in sizes.items() for _ in range(n)]
    items = m.retrieval_set(range(len(subs)), [f"text {i}" for i in range(len(subs))], subs)
    result = m.evaluate_retrieval(np.zeros((324, 324)), items, presets.PROTOCOLS["kagl_100"])
    assert (
        result.queries("I2T R@1") == 221
        and result.queries("Mean") == 442
        and "|n:221+221|" in result.signature
    )


def test_names_and_signatures_tell_protocols_apart():
    items, similarity = world(products=330)
    signatures = {
        m.evaluate_retrieval(similarity, items, p, seed).signature
        for p in (
            *presets.PROTOCOLS.values(),
            presets.find_protocol("fashiongen_100", queries=10),
            presets.find_protocol("fashiongen_100", negatives=5),
            presets.find_protocol("fashiongen_100", small="skip"),
        )
        for seed in (0, 1)
    }
    assert len(signatures) == 16
    assert presets.find_protocol("fashiongen_100", negatives=5).name == "fashiongen_5" and list(
        presets.PROTOCOLS
    ) == ["fashiongen_100", "fashiongen_full", "kagl_100", "kagl_full", "folder_full"]
    assert all(
        word in m.evaluate_retrieval(similarity, items, presets.PROTOCOLS["fashiongen_100"]).signature
        for word in ("negatives:100", "ties:expected", "queries:1000", "repeats:5", "images:660", "set:")
    )
    other, _ = world(products=330, equal_texts=4)
    assert other.fingerprint != items.fingerprint


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: presets.find_protocol("fashiongen"),
            "unknown protocol 'fashiongen'; there are fashiongen_100",
        ),
        (lambda: presets.RetrievalProtocol("x", match="id"), "product, text"),
        (lambda: presets.RetrievalProtocol("x", queries=5), "full set is ranked once"),
        (lambda: m.retrieval_set([1, 1], ["a", "b"], ["s", "s"]), "row 1: product 1"),
        (lambda: m.RetrievalSet(("a",), ("a", "b"), ("s", "s"), ("t", "u")), "1 products lack .* 'b'"),
        (lambda: m.RetrievalSet(("a",), ("a", "a"), ("s", "s"), ("t", "u")), "two texts"),
        (lambda: m.RetrievalSet(("a",), ("a",), ("s", "s"), ("t",)), "differ in number: 1, 2, 1"),
        (
            lambda: m.evaluate_retrieval(np.zeros((6, 7)), SHOP, presets.PROTOCOLS["kagl_full"]),
            r"\(6, 7\).*\(7, 6\)",
        ),
        (
            lambda: m.evaluate_retrieval(np.diag([np.nan] * 7)[:, :6], SHOP, presets.PROTOCOLS["kagl_full"]),
            "image 0 .*text 0 .*not finite",
        ),
    ],
)
def test_failures_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- re-ranking


@pytest.mark.parametrize(
    "protocol",
    [
        presets.PROTOCOLS["fashiongen_full"],
        presets.RetrievalProtocol("fashiongen", negatives=15, queries=40, repeats=2),
    ],
)
def test_reranking_needs_exactly_the_shortlist(protocol):
    items, similarity = world()
    pairs = m.shortlist(similarity, items, protocol, top=4)
    itm = np.full(similarity.shape, np.nan)
    itm[tuple(pairs.T)] = similarity[tuple(pairs.T)] * 3 - 100  # the same order on another scale
    plain, same = (
        m.evaluate_retrieval(similarity, items, protocol),
        m.evaluate_retrieval(similarity, items, protocol, itm=itm, top=4),
    )
    assert plain.recalls() == same.recalls() and same.signature == plain.signature + "|rerank:4"
    itm[tuple(pairs.T)] = (
        items.owner[pairs[:, 0]] == pairs[:, 1]
    )  # an oracle: whatever is in the top 4 becomes first
    best = m.evaluate_retrieval(similarity, items, protocol, itm=itm, top=4)
    for d in m.DIRECTIONS:
        assert (best.ranks[d].hits(1) == plain.ranks[d].hits(4)).all() and (
            best.ranks[d].hits(10) == plain.ranks[d].hits(10)
        ).all()
    itm[tuple(pairs[len(pairs) // 2])] = np.nan
    with pytest.raises(ValueError, match="top 4 needs second scores"):
        m.evaluate_retrieval(similarity, items, protocol, itm=itm, top=4)


def test_reranking_takes_ties_with_the_last_place_along():
    assert m.in_top(np.array([[3.0, 1.0, 2.0, 2.0]]), 2).tolist() == [[True, False, True, True]]
    assert m.rerank(
        np.array([[3.0, 1.0, 2.0, 2.0]]), np.array([[0.0, np.nan, 1.0, 2.0]]), 2
    ).argsort().tolist() == [[1, 0, 2, 3]]


# --- intervals


def test_interval_of_independent_queries_is_the_coin_formula():
    rng = np.random.default_rng(0)
    n = 2000
    ranks = lambda: m.Ranks(
        np.where(rng.random(n) < 0.46, 0, 50), np.zeros(n, int), np.ones(n, int), np.arange(n)
    )
    result = m.RetrievalResult(presets.PROTOCOLS["fashiongen_full"], "s", {"i2t": ranks(), "t2i": ranks()}, n)
    interval = iv.intervals([result])["I2T R@1"]
    assert interval.value == result.recalls()["I2T R@1"]
    assert (interval.high - interval.low) / 2 == pytest.approx(2.2, abs=0.2)


def test_five_copies_of_a_query_are_no_more_evidence():
    rng = np.random.default_rng(0)
    above = np.where(rng.random(400) < 0.5, 0, 50)
    ranks = lambda copies: m.Ranks(
        np.tile(above, copies),
        np.zeros(400 * copies, int),
        np.ones(400 * copies, int),
        np.tile(np.arange(400), copies),
    )
    once, five = (
        iv.intervals(
            [
                m.RetrievalResult(
                    presets.PROTOCOLS["fashiongen_full"], "s", {"i2t": ranks(c), "t2i": ranks(c)}, 400
                )
            ]
        )
        for c in (1, 5)
    )
    assert list(once) == list(five) and all(once[name] == pytest.approx(five[name]) for name in once)


def test_paired_interval_is_sharper_than_two_and_refuses_other_questions():
    items, similarity = world(products=200, kinds=1)
    protocol = presets.RetrievalProtocol("fashiongen", negatives=50, queries=100, repeats=2)
    worse = similarity + 0.3 * np.random.default_rng(3).normal(size=similarity.shape)
    a, b = (m.evaluate_retrieval(s, items, protocol) for s in (similarity, worse))
    gap, first, second = (
        iv.paired_intervals([a], [b])["Mean"],
        iv.intervals([a])["Mean"],
        iv.intervals([b])["Mean"],
    )
    assert gap.value == pytest.approx(first.value - second.value)
    assert gap.high - gap.low < 0.6 * np.hypot(first.high - first.low, second.high - second.low)
    assert iv.paired_intervals([b], [a])["Mean"] == pytest.approx((-gap.value, -gap.high, -gap.low))
    with pytest.raises(ValueError, match="not the same questions"):
        iv.paired_intervals([a], [m.evaluate_retrieval(worse, items, protocol, seed=1)])
    with pytest.raises(ValueError, match="different signatures"):
        iv.intervals([a, m.evaluate_retrieval(worse, items, protocol, seed=1)])
    with pytest.raises(ValueError, match="no results"):
        iv.intervals([])
    with pytest.raises(ValueError, match="2 seeds against 3"):
        iv.paired_intervals([a] * 2, [b] * 3)
    assert iv.paired_intervals([a] * 3, [b])["Mean"].value == pytest.approx(
        gap.value
    )  # a system without training has one result


def test_seeds_widen_an_interval_and_equal_seeds_do_not():
    items, similarity = world(products=200, kinds=1)
    protocol, rng = presets.PROTOCOLS["fashiongen_full"], np.random.default_rng(0)
    runs = [
        m.evaluate_retrieval(similarity + s * rng.normal(size=similarity.shape), items, protocol)
        for s in (0.1, 4.0, 12.0)
    ]
    width = lambda results: np.diff(iv.intervals(results)["Mean"][1:])[0]
    assert width(runs) > 1.5 * width(runs[:1]) and width(runs[:1] * 3) == pytest.approx(width(runs[:1]))
    assert iv.intervals(runs)["Mean"].value == pytest.approx(np.mean([r.recalls()["Mean"] for r in runs]))


# --- torchmetrics


def hit_rates(scores, right):
    """torchmetrics' hit rates at 1, 5, 10 and its mean reciprocal rank, in percent.
    It counts no match whose score is <= 0: shift them."""
    import torch
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR

    n, size = scores.shape
    given = (
        torch.tensor(scores - scores.min() + 1).flatten(),
        torch.tensor(right).flatten(),
        torch.arange(n).repeat_interleave(size),
    )
    return [
        100 * metric(given[0], given[1], indexes=given[2]).item()
        for metric in (*(RetrievalHitRate(top_k=k) for k in (1, 5, 10)), RetrievalMRR())
    ]


@pytest.mark.parametrize("name", ["fashiongen_full", "kagl_full"])
def test_full_sets_agree_with_torchmetrics(name):
    items, similarity = world(equal_texts=8, noise=1.5)
    result = m.evaluate_retrieval(similarity, items, presets.PROTOCOLS[name])
    owner, key = items.owner, items.text_code if name == "kagl_full" else np.arange(60)
    right = key[owner][:, None] == key[None]
    for d, scores, match in (("I2T", similarity, right), ("T2I", similarity.T, right.T)):
        ours = [result.recalls()[f"{d} R@{k}"] for k in (1, 5, 10)] + [result.ranking()[f"{d} MRR"]]
        assert 5 < ours[0] < 95 and ours == pytest.approx(hit_rates(scores.copy(), match.copy()), abs=1e-3)


@pytest.mark.parametrize("name", ["fashiongen_100", "kagl_100"])
def test_sampled_galleries_agree_with_torchmetrics(name):
    import torch
    from torchmetrics.functional.retrieval import retrieval_recall

    items, similarity = world(products=240, kinds=2, equal_texts=8, noise=2.5)
    protocol = presets.find_protocol(name, queries=30, repeats=1)
    result = m.evaluate_retrieval(similarity, items, protocol)
    for d in m.DIRECTIONS:
        scores = m.draw_galleries(items, protocol, d).gather(similarity)
        right = np.zeros(scores.shape, bool)
        right[:, 0] = True
        ours = [result.recalls()[f"{d.upper()} R@{k}"] for k in (1, 5, 10)] + [
            result.ranking()[f"{d.upper()} MRR"]
        ]
        assert ours == pytest.approx(hit_rates(scores, right), abs=1e-3)
        one = retrieval_recall(
            torch.tensor(scores[0] - scores.min() + 1), torch.tensor(right[0]), top_k=5
        ).item()  # one right answer: recall is the hit
        assert one == result.ranks[d].hits(5)[0]


def test_torch_stays_out():
    code = (
        "import sys, unifashion.ground.recall, unifashion.ground.intervals; bad = {'torch', 'transformers', "
        "'torchmetrics'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
