"""Masks of worn views: of the same people, packed and unpacked, drawn once."""

import numpy as np
import pytest

from unifashion.ground.core import load_profile
from unifashion.people.scenes import render
from unifashion.shop.fashiongen_files import draw_products
from unifashion.shop.worn import drawn_worn, worn_scene
from unifashion.shop.worn_masks import FORMS, drawn_worn_masks, unpacked

WORLD = load_profile("smoke").world
PRODUCTS = draw_products(WORLD)[:5]


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    return drawn_worn_masks(WORLD, PRODUCTS, workers=1)


def test_row_by_row_they_belong_to_the_worn_views(packed):
    views = drawn_worn(WORLD, PRODUCTS, workers=1)
    assert len(views.images) == len(packed)
    by_id = {str(product.id): product for product in PRODUCTS}
    for row, (product, frame) in enumerate(zip(views.products, views.frames)):
        drawn = render(worn_scene(by_id[product], frame, WORLD.seed), WORLD.height, WORLD.width,
                       ("person", "agnostic_mask", "agnostic_box_mask"))
        assert np.array_equal(drawn["person"], views.images[row])
        for form, name in zip(FORMS, ("agnostic_mask", "agnostic_box_mask")):
            assert np.array_equal(unpacked(packed[[row]], form)[0], drawn[name])


def test_they_are_drawn_once(packed, tmp_path):
    files = list(tmp_path.glob("worn/*-masks.npy"))
    before = files[0].stat().st_mtime_ns
    assert np.array_equal(drawn_worn_masks(WORLD, PRODUCTS, workers=1), packed)
    assert list(tmp_path.glob("worn/*-masks.npy")) == files and files[0].stat().st_mtime_ns == before


def test_an_unknown_form_is_refused(packed):
    with pytest.raises(ValueError, match="form: 'oval' is none of garment, box"):
        unpacked(packed, "oval")
