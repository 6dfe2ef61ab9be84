"People in a catalogue's products."


import numpy as np

from unifashion.ground.core import load_profile
from unifashion.people.scenes import render
from unifashion.shop.fashiongen_files import draw_products
from unifashion.shop.worn import drawn_worn, frames_of, worn_scene
from unifashion.wardrobe.garments import KINDS

WORLD = load_profile("smoke").world


def products():
    return draw_products(WORLD, "foundations")[:10]


def test_every_product_is_worn_and_upper_garments_twice():
    for product in products():
        upper = KINDS[product.garment.kind].region == "upper_body"
        assert frames_of(product) == (("half", "full") if upper else ("full",))
        for frame in frames_of(product):
            scene = worn_scene(product, frame, 0)
            assert scene.garment == product.garment and scene.frame == frame


def test_pictures_are_those_of_the_scenes_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    own = products()[:3]
    views = drawn_worn(WORLD, own, workers=1)
    assert views.products == [str(p.id) for p in own for _ in frames_of(p)]
    last = render(worn_scene(own[-1], views.frames[-1], WORLD.seed), WORLD.height, WORLD.width)["person"]
    assert np.array_equal(views.images[-1], last)
    stored = list(tmp_path.glob("worn/*.npy"))
    before = stored[0].stat().st_mtime_ns
    again = drawn_worn(WORLD, own, workers=1)
    assert stored[0].stat().st_mtime_ns == before and np.array_equal(again.images, views.images)
    assert drawn_worn(WORLD, own[:2], workers=1).fingerprint != views.fingerprint
    pictures, whose = views.framed("full")
    assert len(pictures) == views.frames.count("full") == len(whose)
