"""Open questions: cases that contradict in one thing alone, bad ones that are bad, ways of asking."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unifashion.models.foundations import train_tokenizer
from unifashion.models.latents import sampler, start_noise
from unifashion.models.unet import PLACES, new_inpainter
from unifashion.rag.inversion import spliced_prompts
from unifashion.rag.model import Edits, edited, new_editor
from unifashion.rag.questions import (BAD, SHARED, Weighed, bad_ones, best_threshold, conflicts,
                                      in_the_manner, in_windows, kept, pooled, settled, spoilt, weighed)

TEXTS = [("a blue shirt", "short sleeves"), ("striped",)]
TOKENIZER = train_tokenizer([" ".join(own) for own in TEXTS] * 4, 90)
LETTERS = "abcdefghijkl"


def garment(kind, color, sleeve="short", pattern="plain"):
    return SimpleNamespace(kind=kind, color=color, sleeve=sleeve, pattern=pattern)


GARMENTS = {"s1": garment("shirt", "red"), "s2": garment("shirt", "blue"),
            "s3": garment("shirt", "blue", "long"), "c1": garment("coat", "red", "long"),
            "d1": garment("dress", "red", ""), "d2": garment("dress", "green", "")}
DATABASE = {"upper_body": ["s1", "s2", "s3", "c1"], "dresses": ["d1", "d2"]}
PEOPLE = SimpleNamespace(names=["p", "q"], garment_ids=["s1", "d1"], categories=["upper_body", "dresses"])


@pytest.mark.parametrize("attribute", SHARED)
def test_garments_of_a_case_agree_with_the_text_and_contradict_each_other(attribute):
    for case in conflicts(attribute, PEOPLE, DATABASE, GARMENTS, n=12):
        own = [GARMENTS[name] for name in case.garments]
        assert {getattr(one, SHARED[attribute]) for one in own} == {case.text}
        assert tuple(getattr(one, attribute) for one in own) == case.values
        assert len(set(case.values)) == 2 and "" not in case.values
        assert set(case.garments) <= set(DATABASE[PEOPLE.categories[case.person]])


def test_cases_that_cannot_be_are_none():
    assert conflicts("color", PEOPLE, DATABASE, GARMENTS, size=3, n=5) == []
    assert conflicts("pattern", PEOPLE, DATABASE, GARMENTS, n=5) == []
    assert {case.person for case in conflicts("sleeve", PEOPLE, DATABASE, GARMENTS, n=5)} == {0}
    once, again = (conflicts("color", PEOPLE, DATABASE, GARMENTS, n=5) for _ in range(2))
    assert once == again


def test_a_blend_is_nobodys_value():
    case = conflicts("color", PEOPLE, DATABASE, GARMENTS, n=1)[0]
    told = settled([*case.values, "purple"], [case] * 3)
    assert told["of one of them"].tolist() == [1, 1, 0] and told["of none"].tolist() == [0, 0, 1]
    assert told["of the first"].tolist() == [1, 0, 0] and told["of the second"].tolist() == [0, 1, 0]
    assert np.isnan(told["of the third"]).all() and "of the chosen" not in told
    chosen = settled([*case.values, "purple"], [case] * 3, chosen=[1, 1, 0])["of the chosen"]
    assert chosen.tolist() == [0, 1, 0]


def test_who_is_bad():
    asked = "s2", "upper_body", DATABASE, GARMENTS
    assert bad_ones(BAD[0], *asked) == ["s1", "s3", "c1"]
    assert bad_ones(BAD[1], *asked) == ["s1"]
    assert bad_ones(BAD[2], *asked) == ["d1", "d2"]
    with pytest.raises(ValueError, match="how: 'any' is none of any of the category; right kind"):
        bad_ones("any", *asked)


def test_shares_of_bad_ones_are_nested_and_exact():
    database = {"upper_body": list(LETTERS), "dresses": list("uvwxyz")}
    own = SimpleNamespace(names=[f"p{k}" for k in range(200)], garment_ids=["l"] * 200,
                          categories=["upper_body"] * 200)
    found = [list("abcd")] * 200
    none, half, whole = (spoilt(found, own, database, {}, share, BAD[2]) for share in (0, 0.5, 1))
    assert none == found and all(set(lists) <= set("uvwxyz") for lists in whole)
    assert {sum(name in "uvwxyz" for name in lists) for lists in half} == {2}
    assert all(b in (a, c) for rows in zip(none, half, whole) for a, b, c in zip(*rows))
    assert all(len(set(lists)) == 4 for lists in whole)


def test_a_good_one_stays_where_nobody_is_bad_enough():
    lists = spoilt([["d2"]], SimpleNamespace(names=["q"], garment_ids=["d1"], categories=["dresses"]),
                   {"dresses": ["d1", "d2"]}, GARMENTS, 1, BAD[0])
    assert lists == [["d2"]]


def test_the_threshold_by_hand():
    assert best_threshold([0.5, 0.6, 0.9], [0.1, 0.2, 0.3, 0.55]) == 0.5
    assert best_threshold([0.8], [0.2, 0.9]) == 0.8
    assert kept([["a", "b", "c"]], [[0.1, 0.7, 0.5]], 0.5) == ([["b", "c", "a"]], [2])
    assert kept([["a", "b"]], [[0.1, 0.2]], 0.5) == ([["a", "b"]], [0])


@pytest.fixture(scope="module")
def editor():
    return new_editor(new_inpainter(90, 4, (4, 3), (16, 16, 24), 32, 1), 24, seed=0).eval()


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    tokens = {name: rng.normal(size=(7, 24)) for name in LETTERS}
    parts = {"pose": rng.random((2, 18, 4, 3))}
    return parts, ["x", "y"], TEXTS, [list(LETTERS), list(LETTERS[::-1])], tokens, TOKENIZER


def told(editor, way, data):
    with torch.no_grad():
        return in_the_manner(editor, way).told(data.rows(range(2)))


def test_pooling_one_garment_twice_is_that_garment(editor, given):
    parts, names, texts, _, tokens, tokenizer = given
    twice = Edits(parts, names, texts, [["a", "a"], ["b", "b"]], tokens, tokenizer, most=2, within=1)
    once = Edits(parts, names, texts, [["a"], ["b"]], tokens, tokenizer, most=1)
    with torch.no_grad():
        plain = editor.told(once.rows(range(2)))
    assert torch.allclose(told(editor, pooled, twice), plain, atol=1e-5)


def test_windows_of_three_and_the_last_one_looks_back(editor, given):
    four = told(editor, in_windows, Edits(*given, most=4, within=3))
    assert four.shape[1] == 2 * PLACES
    parts, names, texts, lists, tokens, tokenizer = given
    last = Edits(parts, names, texts, [own[1:4] for own in lists], tokens, tokenizer, most=3)
    with torch.no_grad():
        assert torch.allclose(four[:, PLACES:], editor.told(last.rows(range(2))), atol=1e-5)
    mixed = Edits(*given, most=3, counts=[1, 3]).rows(range(2))
    with pytest.raises(ValueError, match=r"not \[1, 3\]"):
        in_windows(editor, mixed)


def test_windows_are_held_against_a_silence_of_their_length(editor, given):
    parts, *rest = given
    shown = parts | {"mask": np.ones((2, 1, 4, 3)), "masked": np.zeros((2, 4, 4, 3))}
    batch = Edits(shown, *rest, most=4, within=3).rows(range(2))
    asked = in_the_manner(editor, in_windows)
    noise = start_noise([0, 1], (4, 4, 3))
    assert edited(asked, batch, noise, sampler("dpm++", asked.schedule), 2).isfinite().all()


def test_without_garments_every_way_is_the_text(editor, given):
    none = Edits(*given, most=0)
    with torch.no_grad():
        plain = editor.text_encoder(spliced_prompts(TOKENIZER, [", ".join(own) for own in TEXTS], [0, 0]).ids)
    for way in (pooled, in_windows, weighed):
        assert torch.allclose(told(editor, way, none), plain.last_hidden_state, atol=1e-6)


def test_weights_fall_with_the_score_and_a_forgotten_garment_is_silent(editor, given):
    data = Weighed(*given, most=2, scores=[[0.9, -0.9], [0.5, 0.5]])
    weights = data.rows(range(2))["weights"]
    assert weights[0, 0] == 1 and weights[0, 1] < 1e-6 and weights[1].tolist() == [1, 1]
    parts, names, texts, lists, tokens, tokenizer = given
    other = [[lists[0][0], "k"], lists[1]]
    changed = Weighed(parts, names, texts, other, tokens, tokenizer, most=2, scores=[[0.9, -0.9], [0.5, 0.5]])
    assert torch.allclose(told(editor, weighed, data)[0], told(editor, weighed, changed)[0], atol=1e-4)


def test_the_editor_itself_is_asked_as_before(editor, given):
    batch = Edits(*given, most=1).rows(range(2))
    with torch.no_grad():
        before = editor.told(batch)
        in_the_manner(editor, pooled)
        assert torch.equal(editor.told(batch), before)
