"""Composed queries of a world, with their targets."""

import json
from dataclasses import replace

import pytest

from unifashion.data import composed_sets as c
from unifashion.data.samples import DataError
from unifashion.ground.core import Formats, World

SMALL = World("drawn", products=200, test_per_type=4, height=64, width=48)
FORMATS = Formats(fashioniq_train=12, fashioniq_val=10, fashioniq_test=10)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFASHION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_all_categories_with_targets_in_the_gallery(cache):
    for split in ("val", "test"):
        sets = c.composed_sets(SMALL, FORMATS, split, workers=1)
        assert list(sets) == ["dress", "shirt", "toptee"]
        for own in sets.values():
            assert (own.rows >= 0).all() and len(own.gallery) == 10


def test_a_truth_about_other_queries_is_refused(cache):
    root = c.drawn_root(SMALL, FORMATS, 1) / "fashion_iq"
    own = c.composed_sets(SMALL, FORMATS, "test", workers=1)["dress"]
    turned = replace(own, queries=own.queries[::-1])
    with pytest.raises(DataError, match="the truth is about other queries"):
        c.told_targets(turned, root, "dress")


def test_what_is_on_record_comes_back(cache):
    sets = c.composed_sets(SMALL, FORMATS, "val", workers=1)
    back = c.from_rows(json.loads(json.dumps(c.as_rows(sets))))
    for name, (products, queries) in back.items():
        assert products == sets[name].gallery.products and queries == sets[name].queries


def test_captions_cover_the_gallery_and_only_guided_ones_know_queries(cache):
    own = c.composed_sets(SMALL, FORMATS, "val", workers=1)["toptee"]
    plain = c.told_of(SMALL, FORMATS, "val", "toptee", own)
    guided = c.told_of(SMALL, FORMATS, "val", "toptee", own, guided=True)
    assert set(plain) == set(guided) == set(own.gallery.products)
    assert not any(text.startswith("The ") and ": " in text for text in plain.values())
    assert any(text.startswith("The ") and ": " in text for text in guided.values())
