"""A shop's texts cut into phrases, and what they look up, counted by hand."""

import numpy as np
import pytest

from unifashion.evidence.looked_up import (LONGEST, WAYS, asked_with, lookup_figure, lookup_rows,
                                           phrases_of)
from unifashion.rag.garment_search import sharing_phrases


@pytest.mark.parametrize("text, phrases", [
    ("Grey solid T-shirt, has a round neck and short sleeves.",
     ("grey solid t-shirt", "round neck", "short sleeves")),
    ("Made of 100% cotton", ()),
    ("Zip", ()),  # one word alone says too little
    ("one two three four five", ("two three four five",)),
    ("round neck; round neck", ("round neck",)),
    ("Women's blue-green top (mesh upper)", ("mesh upper", "women's blue-green top")),
    ("", ()),
])
def test_a_text_falls_into_phrases(text, phrases):
    assert phrases_of(text) == phrases
    assert all(len(phrase.split()) <= LONGEST for phrase in phrases)


def test_queries_of_each_way():
    asked = [("a b", "c d", "e f", "g h")]
    told = {way: asked_with(way, ["Whole."], asked) for way in WAYS}
    assert told == {"one phrase": ["a b"], "three phrases": ["a b, c d, e f"], "the whole text": ["Whole."]}


def test_precision_recall_and_the_lot():
    held = [("x y",), ("x y", "u v"), ("u v",), ("p q",)]
    relevant = sharing_phrases([("x y",), ("u v",)], held)
    allowed = np.array([[True, True, True, True], [True, True, True, False]])
    found = [["a", "c", "b"], ["a", "b", "c"]]
    one, three = lookup_rows("one phrase", found, list("abcd"), relevant, allowed, ks=(1, 3), draws=50)
    assert one["precision"] == 50 and one["recall"] == 25
    assert three["precision"] == pytest.approx(100 * 2 / 3) and three["recall"] == 100
    assert one["precision_by_chance"] == pytest.approx(100 * (2 / 4 + 2 / 3) / 2)
    assert one["low"] <= one["precision"] <= one["high"] and one["n"] == 2
    with pytest.raises(ValueError, match="query 1: an answer that was not allowed"):
        lookup_rows("one phrase", [["a"], ["d"]], list("abcd"), relevant, allowed, ks=(1,))


def test_the_picture_has_a_mark_for_each_way_and_the_lot():
    rows = [{"row": way, "k": k, "precision": 50, "low": 45, "high": 60, "precision_by_chance": 10}
            for way in WAYS for k in (1, 3, 10)]
    axes = lookup_figure(rows, "made up").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["by lot", *WAYS]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["first 1", "first 3", "first 10"]
