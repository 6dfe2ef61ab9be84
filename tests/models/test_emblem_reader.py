"""Garments with emblems: each as often, on the chest, large from near; a reader stored and opened."""

from dataclasses import replace

import numpy as np

from unifashion.ground.core import Generator, World
from unifashion.models.attribute_reader import drawn_attribute_reader, read_attributes
from unifashion.models.emblem_reader import CHEST, marked_garments, marked_pictures, train_emblem_reader
from unifashion.wardrobe.garments import EMBLEMS, is_garment


def test_every_emblem_comes_as_often_and_sits_on_a_chest():
    garments = marked_garments(36, "test")
    assert [own.emblem for own in garments] == list(EMBLEMS) * 3
    assert all(own.place in CHEST and is_garment(own) for own in garments)
    assert garments == marked_garments(36, "test") != marked_garments(36, "other")


def test_an_emblem_is_larger_from_near():
    garment = next(own for own in marked_garments(12, "test") if own.emblem == "number 7")
    other = [garment, replace(garment, emblem="heart")]
    changed = {}
    for name, (first, second) in marked_pictures(other, 128, 96).items():
        columns = np.abs(first.astype(int) - second).max(-1).max(0) > 30
        changed[name] = int(np.ptp(np.flatnonzero(columns)))
    assert changed["close-up"] >= 24 and changed["close-up"] > 1.4 * changed["front"]


def test_a_reader_of_emblems_is_stored_under_its_own_name(tmp_path):
    g = Generator(emblem_widths=(8, 8, 8, 8), reader_batch=4, reader_steps=99, emblem_garments=12,
                  emblem_steps=2)
    card = train_emblem_reader(g, World("drawn", height=64, width=48), tmp_path, tmp_path / "s", log=False)
    assert card["name"] == "emblem-reader" and card["training"]["steps"] == 2
    assert set(card["metrics"]) == {"front: emblem", "close-up: emblem"}
    reader = drawn_attribute_reader(tmp_path, "emblem-reader")
    told = read_attributes(reader, np.zeros((2, 64, 48, 3), np.uint8))
    assert set(told["emblem"]) <= set(EMBLEMS)
