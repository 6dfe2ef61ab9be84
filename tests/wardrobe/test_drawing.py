"Drawings: deterministic, alike at every size, different where the words differ, true to their colour."

from dataclasses import replace

import numpy as np
import pytest

from unifashion.wardrobe.body import catalogue_pose, limb, limb_frame, tube
from unifashion.wardrobe.canvas import BACKGROUND, camera_on, chain, spline
from unifashion.wardrobe.colours import COLORS, color_distance, rgb
from unifashion.wardrobe.drawing import draw
from unifashion.wardrobe.emblems import SHAPES
from unifashion.wardrobe.fabrics import PERIODS, sample_tile
from unifashion.wardrobe.garments import (
    EMBLEMS,
    FABRICS,
    KINDS,
    PATTERNS,
    Garment,
    check_garment,
    is_garment,
    needs_second,
)
from unifashion.wardrobe.sampling import VIEWS, near_duplicate, sample_garment, single_changes

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


def differing(a, b, more=14) -> int:
    "Pixels in which two pictures differ visibly."
    return int((np.abs(a.astype(int) - b).max(-1) > more).sum())


def test_same_bytes_twice():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        g = sample_garment(rng, kind)
        for view in ("front", "folded"):
            assert draw(g, view).tobytes() == draw(replace(g), view).tobytes()


def test_shape_and_dtype():
    for height, width in ((64, 48), (128, 96), (128, 128), (512, 384)):
        image = draw(TEE, height=height, width=width)
        assert image.shape == (height, width, 3) and image.dtype == np.uint8


def test_unknown_view():
    with pytest.raises(ValueError, match="view.*front.*hanger"):
        draw(TEE, "side")


@pytest.mark.parametrize("view", VIEWS)
def test_every_kind_draws(view):
    "No exception, something on the paper, and the paper's edge untouched (the detail view fills it)."
    rng = np.random.default_rng(VIEWS.index(view))
    for i in range(64):
        g = sample_garment(rng, tuple(KINDS)[i % 16])
        image = draw(g, view)
        shown = np.abs(image.astype(int) - BACKGROUND).max(-1) > 12
        assert 0.07 < shown.mean() < 0.999, (g, view)
        border = np.concatenate([image[0], image[:, 0], image[:, -1]]).astype(int)
        assert view == "detail" or np.abs(border - BACKGROUND).max() <= 2, (g, view)


def test_sizes_agree():
    rng = np.random.default_rng(9)
    for i in range(16):
        g = sample_garment(rng, tuple(KINDS)[i])
        big = draw(g, height=512, width=384).astype(float)
        for step in (2, 4, 8):
            small = draw(g, height=512 // step, width=384 // step)
            shrunk = big.reshape(512 // step, step, 384 // step, step, 3).mean((1, 3))
            assert np.abs(shrunk - small).mean() < (4.0, 7.0, 12.0)[int(np.log2(step)) - 1], (g, step)


def test_allowed_values_show():
    "Changing one word of what a front shows changes the front."
    rng = np.random.default_rng(10)
    for kind in KINDS:
        g = sample_garment(rng, kind)
        front = draw(g)
        for name, options in single_changes(g).items():
            for other in [options[i] for i in rng.permutation(len(options))[:2]]:
                assert differing(front, draw(other)) >= 12, (name, g, other)


def test_near_duplicates_show():
    rng = np.random.default_rng(11)
    for kind in KINDS:
        for _ in range(3):
            g = sample_garment(rng, kind)
            assert differing(draw(g), draw(replace(near_duplicate(g, rng), seed=g.seed))) >= 12, g


def test_seed_moves_a_little():
    a, b = draw(replace(TEE, seed=1)), draw(replace(TEE, seed=2))
    assert 0 < differing(a, b, 2) and np.abs(a.astype(float) - b).mean() < 6


@pytest.mark.parametrize("kind", ["t-shirt", "skirt", "trousers", "dress"])
def test_colour_truth(kind):
    "The median of a plain garment's middle is nearest to its own colour's name."
    words = dict(
        length={"t-shirt": "regular", "trousers": "full", "skirt": "midi", "dress": "knee"}[kind],
        fit="regular",
        sleeve="short" if kind in ("t-shirt", "dress") else "",
        neckline="crew" if kind in ("t-shirt", "dress") else "",
        fabric="jersey" if kind == "t-shirt" else "cotton",
        closure="zip" if kind == "trousers" else "",
    )
    names = [(color, shade) for color, shades in COLORS.items() for shade in shades]
    for color, shade in names:
        g = check_garment(Garment(kind, color, shade, seed=3, **words))
        seen = np.median(draw(g)[45:75, 36:60].reshape(-1, 3), axis=0)
        assert min(names, key=lambda n: color_distance(seen, rgb(*n)))[0] == color, (kind, color, shade, seen)


def test_emblems_are_large():
    "Every emblem on every place covers at least 24 pixels across at 192x256."
    rng = np.random.default_rng(12)
    assert set(SHAPES) == set(EMBLEMS)
    for kind in KINDS:
        for place in KINDS[kind].allowed["place"][1:]:
            pool = (
                replace(
                    sample_garment(rng, kind), place=place, emblem="sun", pattern="plain", second="yellow"
                )
                for _ in range(5000)
            )
            g = next(g for g in pool if is_garment(g))
            other = replace(g, emblem="", place="")
            other = other if needs_second(other) else replace(other, second="")
            moved = (
                np.abs(draw(g, height=256, width=192).astype(int) - draw(other, height=256, width=192)).max(
                    -1
                )
                > 25
            )
            rows, columns = np.nonzero(moved)
            assert np.ptp(rows) >= 22 and np.ptp(columns) >= 22, (g, np.ptp(rows), np.ptp(columns))


def test_curves_pass_through_their_points():
    points = np.array([(0, 0), (3, 1), (5, 4), (4, 8.0)])
    assert np.allclose(spline(points).vertices[::3], points)
    joined = chain(points, np.array([(4, 8.0), (0, 8)]), np.array([(-1, 8.0), (-1, 0)]))
    assert len(joined.vertices) == 1 + 3 * (3 + 1 + 1 + 1) and np.allclose(joined.vertices[-1], (-1, 0))


def test_camera_fits_its_box():
    camera = camera_on((-20, -5, 20, 70), 128, 96, 9.0)
    corners = np.array([(-20, -5), (20, 70.0)]) @ camera.matrix.T + camera.offset
    assert (
        corners.min() >= 0
        and (corners <= (96, 128)).all()
        and camera.scale == pytest.approx(min(0.9 * 96 / 40, 0.88 * 128 / 75))
    )


@pytest.mark.parametrize("side", [1, -1])
def test_limb_coordinates_invert_the_tube(side):
    joints = limb((17.0, 8.0), (30.0, 29.0), np.radians((60, 20))) * (side, 1)
    frame = limb_frame(joints, side, [(0, 8), (2, 8)], 59.0, bow=0.0)
    x, y = tube(joints, [0.4], [3.0], side)[0].astype(np.float32)
    s, t, a, down = frame(np.array([[x]], np.float32), np.array([[y]], np.float32))
    assert (
        s[0, 0] * side == pytest.approx(3, abs=1e-3)
        and t[0, 0] == pytest.approx(12, abs=1e-3)
        and a[0, 0] * side == pytest.approx(3 / 8, abs=1e-3)
    )


def test_tiles_repeat_and_average():
    "Tiles are periodic, and a coarse sample has the fine one's mean."
    s, t = np.meshgrid(np.arange(0, 40, 0.25, dtype=np.float32), np.arange(0, 40, 0.25, dtype=np.float32))
    for name in (*PATTERNS, *FABRICS):
        if name not in PERIODS:
            continue
        across, down = PERIODS[name]
        assert np.allclose(
            sample_tile(name, s, t, 4.0), sample_tile(name, s + across, t - down, 4.0), atol=2e-2
        ), name
        assert np.isfinite(sample_tile(name, s, t, 0.8)).all()


def test_the_same_garment_follows_another_pose():
    "Joints moved, the sleeve's pixels move with them: the geometry lives in body coordinates."
    from unifashion.wardrobe.body import top_cut
    from unifashion.wardrobe.fabrics import Cloth
    from unifashion.wardrobe.tops import sleeve_piece

    g = replace(TEE, sleeve="long")
    pose = catalogue_pose(g)
    raised = replace(
        pose, arms=np.stack([limb(pose.arms[0, 0], (30.0, 29.0), np.radians((100, 160))), pose.arms[1]])
    )
    low, high = (sleeve_piece(g, top_cut(g), p, 0, Cloth(g)).curve.vertices for p in (pose, raised))
    assert low[:, 1].max() > 50 and high[:, 1].max() < 40 and high[:, 0].max() > low[:, 0].max()
