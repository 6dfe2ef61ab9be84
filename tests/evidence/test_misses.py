"""What wrong first answers have not read: by hand, blind, perfect, re-ranked."""

from dataclasses import replace

import numpy as np
import pytest

from unifashion.evidence.misses import first_answers, unread
from unifashion.ground.core import stream
from unifashion.ground.protocols import RetrievalProtocol
from unifashion.ground.recall import retrieval_set
from unifashion.wardrobe.sampling import sample_garment

NAMES = ("color", "sleeve")


def shop(n, negatives):
    numbers = [str(i) for i in range(n)]
    return (retrieval_set(numbers, numbers, ["tee"] * n),
            RetrievalProtocol("fashiongen", negatives=negatives, queries=n, repeats=1))


def test_by_hand_the_sleeve_is_unread_and_the_colour_read():
    "Three tees: red short, red long, blue long. The red ones answer for each other."
    base = sample_garment(stream(0, "tee"), "t-shirt")
    looks = ("red", "short"), ("red", "long"), ("blue", "long")
    garments = [replace(base, color=color, sleeve=sleeve) for color, sleeve in looks]
    scores = np.array([[0, 1, -1], [1, 0, -1], [0, 0, 1]], float)  # 0 and 1 find one another, 2 itself
    items, protocol = shop(3, 2)
    found = unread(scores, items, protocol, garments, NAMES)
    assert (found["wrong"], found["asked"]) == (4, 6)
    # the wrong answers never differ in colour, and always in sleeve; a blind guess differs in half of both,
    # or, asked for the red long one, in half of the colours and half of the sleeves
    assert found["unread"]["color"] == 0
    blind_sleeve = np.mean([1, 0.5, 1, 0.5])  # short against long, long; long against short, long
    assert found["unread"]["sleeve"] == pytest.approx(1 / blind_sleeve)


def test_a_blind_scorer_reads_nothing():
    rng = stream(1, "blind")
    garments = [sample_garment(rng, "t-shirt") for _ in range(400)]
    items, protocol = shop(400, 50)
    found = unread(rng.normal(size=(400, 400)), items, protocol, garments, NAMES)
    assert all(abs(share - 1) < 0.1 for share in found["unread"].values())


def test_a_second_score_that_knows_leaves_nothing_wrong():
    items, protocol = shop(30, 10)
    garments = [sample_garment(stream(2, i), "t-shirt") for i in range(30)]
    nothing = np.zeros((30, 30))
    assert unread(nothing, items, protocol, garments, NAMES)["wrong"] > 0
    found = unread(nothing, items, protocol, garments, NAMES, itm=np.eye(30))
    assert found["wrong"] == 0 and np.isnan(found["unread"]["sleeve"])


def test_several_pictures_of_a_product_are_one_answer():
    items = retrieval_set(["a", "a", "b", "b", "c", "c"], ["x"] * 2 + ["y"] * 2 + ["z"] * 2, ["tee"] * 6)
    protocol = RetrievalProtocol("fashiongen", negatives=2, queries=3, repeats=1)
    scores = np.eye(3).repeat(2, axis=0)
    right, first, others = first_answers(scores, items, protocol, "t2i")
    assert (right == first).all() and others.shape == (3, 2) and (others != right[:, None]).all()
