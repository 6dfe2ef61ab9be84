"""The retriever: one space with a name, pictures of any size, cut texts, and only its own encoder."""

import numpy as np
import pytest
import torch

from unifashion.ground.core import Foundations
from unifashion.models.checkpoints import seeded
from unifashion.models.encoders import ImageEncoder, dual_encoder, tower_tokens
from unifashion.models.foundations import save_foundation, train_tokenizer
from unifashion.models.retriever import (WORDS, drawn_retriever, frozen_retriever, own_text_first, pooled,
                                         retrieving_encoder, retrieving_loss)

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3)).astype(np.uint8)
SETTINGS = {"vocabulary": 60, "seen": 32, "width": 16}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["red shirt", "blue coat with buttons"] * 4, 60)


@pytest.fixture(scope="module")
def encoder():
    with seeded(0, "encoder"):
        sizes = Foundations(patch=8, width=16, layers=1, heads=2, text_layers=1)
        tower = dual_encoder(sizes, 32, 24, vocabulary=8).visual
    return ImageEncoder(tower, tower_tokens, (32, 24), 16, (0.5,) * 3, (0.5,) * 3, "tiny encoder")


@pytest.fixture(scope="module")
def retriever(encoder, tokenizer):
    return frozen_retriever(retrieving_encoder(**SETTINGS), encoder, tokenizer, "tiny text side")


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(retriever):
    seen, told = retriever.images(PICTURES), retriever.texts(["red shirt", "blue coat"])
    assert seen.shape == (5, 16) and told.shape == (2, 16)
    for own in (seen, told):
        assert np.allclose(np.linalg.norm(own, axis=1), 1, atol=1e-5)
    assert np.allclose(retriever.images(PICTURES, batch=2), seen, atol=1e-5)


def test_pictures_are_padded_not_cropped(retriever):
    wide = np.full((32, 64, 3), 255, np.uint8)
    wide[:, :8] = 0  # lost where the middle is cut out
    plain = np.full((32, 64, 3), 255, np.uint8)
    first, second = retriever.images([wide, plain])
    assert not np.allclose(first, second)


def test_a_text_is_cut_where_the_text_side_stops_reading(retriever):
    long, longer = retriever.texts(["red " * WORDS, "red " * (WORDS + 9)])
    assert np.array_equal(long, longer)


def test_equal_texts_count_as_one(retriever):
    assert own_text_first(retriever, pooled(torch.randn(4, 3, 16)), ["red shirt"] * 4) == 1


def test_gradients_reach_text_side_and_projection(tokenizer):
    model = retrieving_encoder(**SETTINGS)
    batch = {"image": torch.randn(3, 32), "ids": torch.randint(5, 50, (3, WORDS)), "product": torch.arange(3)}
    retrieving_loss(model, batch).backward()
    assert model.visual[1].weight.grad.abs().sum() > 0
    assert model.token_embedding.weight.grad.abs().sum() > 0


def test_a_stored_one_says_the_same_and_belongs_to_its_encoder(retriever, encoder, tokenizer, tmp_path):
    weights = {name: own.half().float() for name, own in retriever.model.state_dict().items()}
    retriever.model.load_state_dict(weights)
    save_foundation(tmp_path / "retriever", weights, SETTINGS | {"encoder": encoder.identity})
    again = drawn_retriever(tmp_path, encoder, tokenizer)
    assert np.array_equal(again.images(PICTURES), retriever.images(PICTURES))
    assert np.array_equal(again.texts(["red shirt"]), retriever.texts(["red shirt"]))
    assert again.identity.endswith(f"on {encoder.identity}") and again.identity != retriever.identity
    other = ImageEncoder(encoder.body, tower_tokens, (32, 24), 16, (0.5,) * 3, (0.5,) * 3, "another encoder")
    with pytest.raises(ValueError, match="was trained on tiny encoder, not on another encoder"):
        drawn_retriever(tmp_path, other, tokenizer)
