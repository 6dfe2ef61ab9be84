"""The attribute reader: what it names, what counts as right, what it refuses, and that it is stored whole."""

import numpy as np
import pytest
import torch

from unifashion.ground.core import Generator, stream
from unifashion.models.attribute_reader import (AttributeReader, NamedPictures, drawn_attribute_reader,
                                                naming_loss, read_attributes, read_rightly,
                                                train_attribute_reader)
from unifashion.models.checkpoints import seeded
from unifashion.models.probes import Shown

VALUES = {"upper_body kind": ["shirt", "tee"], "lower_body kind": ["jeans"],
          "color": ["blue", "green", "red"]}


def noise(n, seed=0):
    return stream(seed, "noise").integers(0, 256, (n, 32, 24, 3)).astype(np.uint8)


@pytest.fixture
def reader():
    with seeded(0, "reader"):
        return AttributeReader(VALUES, (8, 8, 8, 8)).eval()


class Says(torch.nn.Module):
    "Names the same whatever it sees."
    values = VALUES

    def __init__(self, told):
        super().__init__()
        self.one = torch.nn.Parameter(torch.zeros(1))
        self.told = told

    def forward(self, pictures):
        scores = {name: torch.zeros(len(pictures), len(own)) for name, own in VALUES.items()}
        for name, value in self.told.items():
            scores[name][:, VALUES[name].index(value)] = 1
        return scores


def test_an_answer_counts_for_the_pictures_own_region_alone():
    model = Says({"upper_body kind": "tee", "lower_body kind": "jeans", "color": "green"})
    truth = {"upper_body kind": ["tee", "shirt", None, None], "lower_body kind": [None, None, "jeans", None],
             "color": ["green", "red", None, "green"]}
    right = read_rightly(model, noise(4), truth)
    assert list(right) == ["kind", "color"]
    assert np.array_equal(right["kind"], [1, 0, 1, np.nan], equal_nan=True)
    assert np.array_equal(right["color"], [1, 0, np.nan, 1], equal_nan=True)


def test_what_it_cannot_name_is_an_error_and_not_a_wrong_answer(reader):
    with pytest.raises(ValueError, match="knows no 'sleeve'"):
        read_rightly(reader, noise(1), {"sleeve": ["long"]})


def test_a_value_it_never_learned_is_wrong(reader):
    assert read_rightly(reader, noise(2), {"color": ["mauve", "mauve"]})["color"].tolist() == [0, 0]


def test_a_picture_is_read_the_same_in_any_batch(reader):
    pictures = noise(5)
    together = reader(torch.from_numpy(pictures))["color"]
    alone = reader(torch.from_numpy(pictures[3:4]))["color"]
    assert torch.allclose(together[3:4], alone, atol=1e-4)
    whole, parts = (read_attributes(reader, pictures, batch) for batch in (5, 2))
    assert all((whole[name] == parts[name]).all() for name in VALUES)


def test_the_loss_leaves_out_what_has_no_name(reader):
    pictures = noise(2)
    batch = {"image": torch.from_numpy(pictures), "picture": torch.tensor([0, 1])}
    reader.register_buffer("truth", reader.codes({"upper_body kind": ["tee", None],
                                                  "lower_body kind": [None, None],
                                                  "color": ["red", "blue"]}), persistent=False)
    scores = reader(batch["image"])
    kind = torch.nn.functional.cross_entropy(scores["upper_body kind"][:1], torch.tensor([1]))
    color = torch.nn.functional.cross_entropy(scores["color"], torch.tensor([2, 0]))
    assert naming_loss(reader, batch).item() == pytest.approx(float((kind + 0 + color) / 3), rel=1e-4)


def test_values_and_pictures_must_be_as_many():
    with pytest.raises(ValueError, match="3 pictures, but 2 values of 'color'"):
        NamedPictures({"color": ["red", "blue"]}, noise(3))


def test_stored_and_opened_it_names_the_same(tmp_path):
    tags = {"color": ["red", "blue"] * 4, "upper_body kind": ["tee", None] * 4}
    g = Generator(reader_widths=(8, 8, 8, 8), reader_steps=3, reader_batch=4)
    shown = {"held": Shown(None, None, noise(4, 1), {"color": ["red", "blue", "red", None]})}
    train = NamedPictures(tags, noise(8), shift=1)
    card = train_attribute_reader(train, shown, g, tmp_path, tmp_path / "run", log=False)
    reader = drawn_attribute_reader(tmp_path)
    again = np.nanmean(read_rightly(reader, noise(4, 1), shown["held"].truth)["color"])
    assert reader.values == {"color": ["blue", "red"], "upper_body kind": ["tee"]}
    assert card["metrics"] == {"held: color": pytest.approx(again)}
