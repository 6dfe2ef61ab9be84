"""Curves of losses: averages stand at the step where their window ends, however short the run."""

import numpy as np
import pytest

from unifashion.models.history import History
from unifashion.models.learning_curves import learning_figure, moving_average


def test_an_average_stands_where_its_window_ends():
    steps, means = moving_average([4., 2., 6.], 2)
    assert steps.tolist() == [1, 2] and means.tolist() == [3, 4]


def test_a_run_shorter_than_the_window_is_averaged_as_a_whole():
    steps, means = moving_average([1., 5.], 20)
    assert steps.tolist() == [1] and means.tolist() == [3]


def test_steps_without_a_loss_have_no_part():
    steps, means = moving_average([np.nan, np.nan, 3., np.nan, 5.], 2)
    assert steps.tolist() == [2, 3, 4] and means.tolist() == [3, 3, 5]


def test_a_training_without_steps_is_said():
    with pytest.raises(ValueError, match="no steps to show"):
        moving_average([], 3)


def test_every_training_has_a_line_of_its_own_length():
    history = {"long": History([{"step": k, "itc": 1.} for k in range(30)]),
               "short": History([{"step": k, "itc": 2.} for k in range(4)])}
    axes = learning_figure(history, "itc", 10, "ITC", "Phase 2").axes[0]
    drawn = {line.get_label(): line.get_xdata().tolist() for line in axes.get_lines()}
    assert drawn == {"long": list(range(9, 30)), "short": [3]}
    assert axes.get_title("left") == "Phase 2 (mean of 10 steps)" and axes.get_ylabel() == "ITC"
