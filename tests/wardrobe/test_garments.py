"""Descriptions:
the tables agree with one another, sampling is shop-like, near-duplicates differ in one word, errors name the
field."""

from dataclasses import replace

import numpy as np
import pytest

from unifashion.wardrobe.colours import COLORS, CONTRAST, color_distance, rgb
from unifashion.wardrobe.garments import (
    ATTRIBUTES,
    EMBLEMS,
    FABRICS,
    KINDS,
    PATTERNS,
    PLACES,
    Garment,
    check_garment,
    is_garment,
    needs_second,
)
from unifashion.wardrobe.sampling import (
    VIEWS,
    changes,
    near_duplicate,
    sample_garment,
    single_changes,
    views_for,
)

TEE = Garment(
    "t-shirt",
    "white",
    second="red",
    emblem="star",
    place="chest centre",
    sleeve="short",
    neckline="crew",
    length="regular",
    fit="regular",
    fabric="jersey",
)


@pytest.fixture(scope="module")
def shop():
    rng = np.random.default_rng(1)
    return [sample_garment(rng, kind) for kind in KINDS for _ in range(150)]


def test_tables():
    assert len(KINDS) == 16 and len(COLORS) >= 16 and len(PATTERNS) >= 12 and len(EMBLEMS) == 12
    assert {k.region for k in KINDS.values()} == {"upper_body", "lower_body", "dresses"}
    assert len({k.subcategory for k in KINDS.values()}) == 16
    known = dict(color=COLORS, second=COLORS, pattern=PATTERNS, emblem=EMBLEMS, place=PLACES, fabric=FABRICS)
    for name, kind in KINDS.items():
        assert set(kind.allowed) == set(ATTRIBUTES)
        for attribute, words in known.items():
            assert set(kind.allowed[attribute]) - {""} <= set(words), (name, attribute)
        for attribute, words in kind.allowed.items():
            assert len(set(words)) == len(words), (name, attribute)


def test_every_value_is_reachable(shop):
    "Each word of the tables belongs to some valid garment of its kind."
    rng = np.random.default_rng(2)
    for name, kind in KINDS.items():
        for attribute, words in kind.allowed.items():
            if attribute in ("second", "emblem", "place"):
                continue
            for word in words:
                pool = (replace(sample_garment(rng, name), **{attribute: word}) for _ in range(400))
                assert any(
                    is_garment(g)
                    or is_garment(replace(g, second="white"))
                    or is_garment(replace(g, second="navy"))
                    or is_garment(replace(g, shade=""))
                    or is_garment(replace(g, second=""))
                    for g in pool
                ), (name, attribute, word)


def test_samples_are_valid_and_distinct(shop):
    assert all(check_garment(g) is g for g in shop)
    assert len({replace(g, seed=0) for g in shop}) > 0.97 * len(shop)


def test_sampling_is_deterministic():
    a, b = (np.random.default_rng(5) for _ in range(2))
    assert [sample_garment(a) for _ in range(50)] == [sample_garment(b) for _ in range(50)]


def test_shop_correlations():
    rng = np.random.default_rng(3)
    jeans = [sample_garment(rng, "jeans") for _ in range(400)]
    assert np.mean([g.color in ("blue", "black", "grey") for g in jeans]) > 0.55 and {
        g.fabric for g in jeans
    } == {"denim"}
    assert {sample_garment(rng, "coat").sleeve for _ in range(50)} == {"long"}
    shirts = [sample_garment(rng, "shirt").color for _ in range(600)]
    assert max(set(shirts), key=shirts.count) == "white"
    for kind in ("t-shirt", "hoodie", "sweater"):
        assert 0.15 < np.mean([sample_garment(rng, kind).emblem != "" for _ in range(400)]) < 0.45


def test_second_colour_stands_out(shop):
    for g in shop:
        assert needs_second(g) == (g.second != "")
        if g.second:
            assert color_distance(rgb(g.color, g.shade), rgb(g.second)) >= CONTRAST


def test_near_duplicates(shop):
    rng = np.random.default_rng(4)
    for g in shop[::7]:
        twin = near_duplicate(g, rng)
        assert is_garment(twin) and twin.seed != g.seed and len(changes(g, twin)) == 1
        ((name, (old, new)),) = changes(g, twin).items()
        assert getattr(g, name) == old != new == getattr(twin, name)
        assert all(
            len(changes(g, other)) == 1 for options in single_changes(g).values() for other in options[:2]
        )


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(kind="sock"), ("kind: 'sock'", "t-shirt", "slip dress")),
        (dict(sleeve="huge"), ("sleeve: 'huge'", "'short'", "'long'")),
        (dict(color="mauve"), ("color: 'mauve'", "'white'")),
        (dict(shade="dark"), ("shade: 'dark'", "no such shade")),
        (dict(second="cream"), ("second: 'cream'", "too close")),
        (dict(second=""), ("second: ''", "needed by")),
        (dict(pattern="dots"), ("emblem: 'star'", "plain fabric")),
        (dict(place=""), ("place: ''",)),
        (dict(place="left chest", pockets="chest"), ("place: 'left chest'", "pocket")),
    ],
)
def test_errors_name_the_field(change, words):
    with pytest.raises(ValueError) as error:
        check_garment(replace(TEE, **change))
    assert all(w in str(error.value) for w in words), error.value


def test_unknown_kind_in_sampling():
    with pytest.raises(ValueError, match="kind.*t-shirt"):
        sample_garment(np.random.default_rng(0), "sock")


def test_views():
    rng = np.random.default_rng(6)
    views = [views_for(TEE, rng) for _ in range(3000)]
    assert all(v[0] == "front" and len(set(v)) == len(v) <= 6 and set(v) <= set(VIEWS) for v in views)
    assert 1.9 < np.mean([len(v) for v in views]) < 2.2 and {len(v) for v in views} == {1, 2, 3, 4, 5, 6}
