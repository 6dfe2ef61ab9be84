"""Distances between sets of pictures: parity with torchmetrics, redrawn test sets, what is refused."""

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from unifashion.ground.core import stream
from unifashion.ground.distances import (frechet_distance, kernel, kernel_distance, redrawn,
                                         weighted_distance)


def sets(n=40, d=6, shift=0.2):
    rng = stream(0, "sets")
    return rng.normal(size=(n, d)), rng.normal(size=(n, d)) + shift


class Given(torch.nn.Module):
    "Features instead of pictures, as torchmetrics takes a network."
    num_features = 6

    def forward(self, features):
        return features


def test_kernel_distance_is_torchmetrics_without_the_own_truth():
    features, truth = sets()
    theirs = float(poly_mmd(torch.from_numpy(features), torch.from_numpy(truth)))
    across = kernel(features, truth)
    n = len(features)
    without = (across.sum() - np.trace(across)) / (n * (n - 1))
    expected = theirs + 2 * across.mean() - 2 * without
    assert kernel_distance(features, truth) == pytest.approx(1000 * expected, rel=1e-6)


def test_frechet_distance_is_that_of_torchmetrics():
    features, truth = sets()
    metric = FrechetInceptionDistance(feature=Given())
    metric.update(torch.from_numpy(truth), real=True)
    metric.update(torch.from_numpy(features), real=False)
    assert frechet_distance(features, truth) == pytest.approx(float(metric.compute()), rel=1e-5)


def test_equal_sets_are_at_zero_on_average_even_where_the_pairs_are_nearly_copies():
    found = []
    for trial in range(300):
        truth = stream(trial, "truth").normal(size=(24, 4))
        copies = truth + stream(trial, "noise").normal(size=truth.shape) * 0.01
        found.append(kernel_distance(copies, truth))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found)) + 1


def test_weights_of_one_are_the_distance_and_a_weight_of_two_is_a_second_copy_never_compared_with_itself():
    features, truth = sets(n=5)
    assert weighted_distance(features, truth, np.ones((1, 5)))[0] == pytest.approx(
        kernel_distance(features, truth))
    twice = weighted_distance(features, truth, [[2, 1, 0, 0, 0]])[0]
    only = kernel_distance(features[:2], truth[:2])  # the one pair of different pictures that is left
    assert twice == pytest.approx(only)


def test_test_sets_are_drawn_alike_for_equal_seeds_and_keep_their_size():
    assert (redrawn(7, 50).sum(1) == 7).all()
    assert (redrawn(7, 50) == redrawn(7, 50)).all() and (redrawn(7, 50) != redrawn(7, 50, seed=1)).any()


@pytest.mark.parametrize("features, truth, message", [
    (np.ones((3, 2)), np.ones((4, 2)), "equally many"),
    (np.ones((3, 2)), np.ones((3, 4)), "one network"),
    (np.ones((1, 2)), np.ones((1, 2)), "two pictures"),
    (np.full((3, 2), np.nan), np.ones((3, 2)), "not finite"),
])
@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_what_cannot_be_compared_is_refused(distance, features, truth, message):
    with pytest.raises(ValueError, match=message):
        distance(features, truth)
