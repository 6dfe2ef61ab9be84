"""Measures of single pictures: the same picture, by hand, whatever the batch; what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unifashion.ground.core import stream
from unifashion.models.image_metrics import clip_scores, perceptual_distance, picture_features
from unifashion.models.image_metrics import structural_similarity


def noise(n=3, seed=0):
    return stream(seed, "noise").integers(0, 256, (n, 16, 12, 3)).astype(np.uint8)


class ColourTokens:
    "Two tokens a picture: the mean colours of its upper and its lower half."
    mean = torch.zeros(1)
    tokens = None
    identity = "colours"

    def __call__(self, pictures):
        halves = pictures.float().chunk(2, dim=1)
        return torch.stack([half.mean((1, 2)) for half in halves], 1)


def test_structure_of_flat_pictures_by_hand():
    low, high = (np.full((1, 16, 12, 3), value, np.uint8) for value in (60, 180))
    c1 = (0.01 * 255) ** 2
    expected = (2 * 60 * 180 + c1) / (60**2 + 180**2 + c1)  # no deviation: luminance alone
    assert structural_similarity(low, high)[0] == pytest.approx(expected, rel=1e-3)
    assert structural_similarity(low, low)[0] == pytest.approx(1)


def test_each_picture_gets_its_own_number():
    pictures = noise()
    found = structural_similarity(pictures, pictures[[0, 2, 1]])
    assert found[0] == pytest.approx(1) and (found[1:] < 0.9).all()


def test_likeness_by_hand():
    encoder = ColourTokens()
    red, mixed = (np.zeros((1, 16, 12, 3), np.uint8) for _ in range(2))
    red[..., 0] = 200
    mixed[:, :8, :, 0] = 100  # dark red above: the same direction
    mixed[:, 8:, :, 1] = 100  # green below: at right angles
    assert perceptual_distance(encoder, red, mixed)[0] == pytest.approx((0 + 2) / 2)
    assert perceptual_distance(encoder, red, red)[0] == 0


def test_likeness_and_features_do_not_depend_on_the_batch():
    encoder, pictures, truth = ColourTokens(), noise(70), noise(70, seed=1)
    together = perceptual_distance(encoder, pictures, truth)
    alone = [perceptual_distance(encoder, pictures[i:i + 1], truth[i:i + 1])[0] for i in (0, 69)]
    assert np.allclose(together[[0, 69]], alone, atol=1e-6)
    features = picture_features(encoder, pictures)
    assert features.shape == (70, 3) and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_scores_of_texts_are_never_negative():
    vectors = np.eye(2)
    assert clip_scores(vectors, -vectors).tolist() == [0, 0]
    assert clip_scores(vectors, vectors).tolist() == [100, 100]


@pytest.mark.parametrize("pictures, truth, message", [
    (noise(2), noise(3), "true one"),
    (noise(2), noise(2).astype(np.float32), "uint8"),
    (noise(2)[0], noise(2)[0], "true one"),
])
def test_pictures_that_cannot_be_compared_are_refused(pictures, truth, message):
    for measure in (structural_similarity, lambda a, b: perceptual_distance(SimpleNamespace(), a, b)):
        with pytest.raises(ValueError, match=message):
            measure(pictures, truth)


@pytest.mark.parametrize("images, texts, message", [
    (np.eye(2), np.eye(3), "one space"),
    (np.eye(2), 3 * np.eye(2), "length 1"),
])
def test_vectors_that_make_no_cosine_are_refused(images, texts, message):
    with pytest.raises(ValueError, match=message):
        clip_scores(images, texts)


def test_structure_is_what_torchmetrics_says():
    from torchmetrics.functional.image import structural_similarity_index_measure

    chance = np.random.default_rng(0)
    first = chance.integers(0, 256, (3, 40, 30, 3)).astype(np.uint8)
    second = np.clip(first + chance.integers(-40, 40, first.shape), 0, 255).astype(np.uint8)
    both = (torch.from_numpy(own).permute(0, 3, 1, 2).double() for own in (first, second))
    told = structural_similarity_index_measure(*both, reduction="none", data_range=255.)
    assert np.allclose(structural_similarity(first, second), told.numpy(), atol=1e-9)
