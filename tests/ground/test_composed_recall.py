"""Composed recall: who is asked what, and how answers are counted."""

from types import SimpleNamespace

import numpy as np
import pytest

from unifashion.ground import composed_recall as r

OFFICIAL = r.COMPOSED["fashioniq_official"]


def query(reference, target, number=0, category="dress"):
    return SimpleNamespace(id=f"q{number}", reference=reference, target=target, category=category)


def questions(m=6, targets=(1, 2)):
    return r.Questions(range(m), [0] * len(targets), targets, [f"q{i}" for i in range(len(targets))], "dress")


@pytest.mark.parametrize(
    "gallery, references, targets, message",
    [
        ("abca", "b", "c", "the gallery holds 'a' twice"),
        ("abc", "a", "z", "q0: its target 'z' is not in the gallery"),
        ("abc", "z", "a", "q0: its reference 'z' is not in the gallery"),
        ("abc", "a", "a", "q0: 'a' is its own target"),
        ("abc", "", "", "no questions about dress"),
        ("abc", "a", "bc", "1 questions, 1 references and 2 targets"),
    ],
)
def test_questions_that_cannot_be_asked(gallery, references, targets, message):
    ids = [f"q{i}" for i in range(len(references))]
    with pytest.raises(ValueError, match=message):
        r.Questions(gallery, references, targets, ids, "dress")


def test_protocols_differ_in_what_is_searched():
    pairs = [query("a", "b"), query("d", "b", 1)]
    assert r.questions_of("abcde", pairs, OFFICIAL).gallery == tuple("abcde")
    assert r.questions_of("abcde", pairs, r.COMPOSED["fashioniq_val_union"]).gallery == tuple("abd")
    with pytest.raises(ValueError, match="5 pictures; kagl_cir asks for 100"):
        r.questions_of("abcde", pairs, r.COMPOSED["kagl_cir"])
    with pytest.raises(ValueError, match="choose 'split' or 'union'"):
        r.ComposedProtocol("mine", "half")


def test_no_question_is_dropped_and_the_reference_stays():
    "Seven questions, a number that no batch size divides."
    own = questions(9, [1, 2, 3, 4, 5, 6, 7])
    result = r.composed_result(np.eye(9)[[1, 2, 3, 4, 5, 6, 7]], own)
    assert len(result.hits(1)) == 7 and result.hits(1).mean() == 1
    assert result.signature.startswith("split|dress|m:9|n:7|")
    first = np.zeros((7, 9))
    first[:, 0] = 2
    assert r.composed_result(first, own).returned.all()


def test_hits_by_hand():
    "Target second of six, and target tied with one other behind two."
    similarity = np.array([[0.9, 0.8, 0.1, 0, 0, 0], [0.9, 0.8, 0.5, 0.5, 0, 0]])
    result = r.composed_result(similarity, questions())
    assert result.hits(1).tolist() == [0, 0]
    assert result.hits(2).tolist() == [1, 0]
    assert result.hits(3).tolist() == [1, 0.5]
    assert result.hits(4).tolist() == [1, 1]


@pytest.mark.parametrize(
    "similarity, message",
    [(np.zeros((2, 5)), r"a similarity of \(2, 5\) for \(2, 6\)"),
     (np.array([[0.0] * 6, [0, 1, np.nan, 0, 0, 0]]), "q1: its similarity is not a number")],
)
def test_similarities_that_cannot_be_ranked(similarity, message):
    with pytest.raises(ValueError, match=message):
        r.composed_result(similarity, questions())


def test_spaces_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="queries of 3 numbers, targets of 4"):
        r.composed_similarity(np.zeros((2, 3)), np.zeros((5, 4)))


def test_the_best_vector_of_a_target_counts_whatever_the_slices():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(4, 5))
    targets = rng.normal(size=(7, 3, 5))
    by_hand = np.array([[max(q @ z for z in target) for target in targets] for q in queries])
    assert np.allclose(r.composed_similarity(queries, targets, rows=2), by_hand)


def test_a_system_is_asked_about_the_union_in_its_own_order():
    embedded = dict(zip("abcd", np.eye(4)))
    system = SimpleNamespace(embed_query=lambda asked: np.stack([embedded[q.target] for q in asked]),
                             embed_target=lambda gallery: np.stack([embedded[p] for p in gallery.products]))
    gallery = SimpleNamespace(products=list("dcba"))
    for name in ("fashioniq_official", "fashioniq_val_union"):
        result = r.evaluate_composed(system, gallery, [query("a", "c"), query("c", "a", 1)], r.COMPOSED[name])
        assert result.hits(1).tolist() == [1, 1]


def test_averages_are_the_papers():
    "Its own row: averages over categories, and the mean of R@10's and R@50's."
    own = np.array([[0.5372, 0.7366], [0.6125, 0.7667], [0.6184, 0.8046]])
    told = 100 * r.with_averages(own)
    assert np.allclose(told[-3:], [58.94, 76.93, 67.93], atol=0.01)
    assert r.recall_names("ab", (10, 50)) == [
        "a R@10", "a R@50", "b R@10", "b R@50", "average R@10", "average R@50", "average"]


def run(good, n=40, m=60, seed=0):
    "A category's result: so many questions answered rightly, the others last."
    rng = np.random.default_rng(seed)
    similarity = rng.random((n, m))
    targets = np.arange(1, n + 1)
    similarity[np.arange(n), targets] = np.where(np.arange(n) < good, 2, -1)
    ids = [f"q{i}" for i in range(n)]
    return {"dress": r.composed_result(similarity, r.Questions(range(m), [0] * n, targets, ids, "dress"))}


def test_intervals_hold_their_value_and_pairs_cancel():
    found = r.composed_intervals([run(20)], draws=300)
    assert found["average R@1"].value == 50 and found["average R@1"].low < 50 < found["average R@1"].high
    same = r.paired_composed_intervals([run(20)], [run(20)], draws=300)
    assert all(interval == (0, 0, 0) for interval in same.values())
    better = r.paired_composed_intervals([run(30)], [run(10)], draws=300)["average R@1"]
    assert better.value == 50 and better.low > 20


def test_pairs_that_were_asked_otherwise_are_refused():
    with pytest.raises(ValueError, match="not the same questions"):
        r.paired_composed_intervals([run(20)], [run(20, m=61)])
    with pytest.raises(ValueError, match="2 seeds against 3"):
        r.paired_composed_intervals([run(20)] * 2, [run(20)] * 3)
