"""The scorer: unit vectors in one space, cut texts, and that it is stored whole."""

import numpy as np
import pytest

from unifashion.models.foundations import save_foundation, train_tokenizer
from unifashion.models.scorer import WORDS, Scorer, drawn_scorer, first_answers, scoring_encoder

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3)).astype(np.uint8)
SETTINGS = {"vocabulary": 60, "widths": [8, 8, 8, 8]}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["red shirt", "blue coat with buttons"] * 4, 60)


@pytest.fixture(scope="module")
def scorer(tokenizer):
    return Scorer(scoring_encoder(**SETTINGS), tokenizer)


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(scorer):
    seen, told = scorer.images(PICTURES), scorer.texts(["red shirt", "blue coat"])
    assert seen.shape[1] == told.shape[1]
    for own in (seen, told):
        assert np.allclose(np.linalg.norm(own, axis=1), 1, atol=1e-5)
    assert np.allclose(scorer.images(PICTURES, batch=2), seen, atol=1e-5)


def test_a_text_is_cut_where_the_scorer_stops_reading(scorer):
    long, longer = scorer.texts(["red " * WORDS, "red " * (WORDS + 9)])
    assert np.array_equal(long, longer)


def test_equal_texts_count_as_one(scorer):
    assert first_answers(scorer, PICTURES, ["red shirt"] * 5) == 1


def test_a_stored_scorer_says_the_same(scorer, tokenizer, tmp_path):
    weights = {name: own.half().float() for name, own in scorer.model.state_dict().items()}
    scorer.model.load_state_dict(weights)
    save_foundation(tmp_path / "scorer", weights, SETTINGS)
    again = drawn_scorer(tmp_path, tokenizer)
    assert np.array_equal(again.images(PICTURES), scorer.images(PICTURES))
    assert np.array_equal(again.texts(["red shirt"]), scorer.texts(["red shirt"]))
