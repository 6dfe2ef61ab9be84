"""People who wear the drawn garments: one drawing, and everything a try-on data set holds agrees with it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from unifashion.people import scenes as module
from unifashion.people.layers import LABEL, PARTS, parts_of
from unifashion.people.limbs import SHOES
from unifashion.people.outfits import Outfit, may_tuck, swap
from unifashion.people.scenes import NAMES, Scene, dressed_in, keypoints, render, sample_scene
from unifashion.people.staging import BEHIND, paint_person
from unifashion.people.truth import DRESS_CODE, LIP, grown
from unifashion.people.wearers import (
    ARMS,
    HAIR_COLORS,
    HAIR_STYLES,
    KEYPOINTS,
    SKINS,
    STANCES,
    Wearer,
    sample_wearer,
)
from unifashion.wardrobe.drawing import draw
from unifashion.wardrobe.garments import KINDS, Garment
from unifashion.wardrobe.sampling import sample_garment

H, W = 128, 96
TEE = Garment(
    "t-shirt",
    "coral",
    sleeve="long",
    neckline="crew",
    length="regular",
    fit="regular",
    fabric="jersey",
    seed=1,
)
JEANS = Garment(
    "jeans", "navy", length="full", fit="regular", closure="zip", pockets="side", fabric="denim", seed=2
)
PLAIN = Wearer("honey", "brown", "bob", seed=4)


@pytest.fixture(scope="module")
def scenes():
    return [
        sample_scene(np.random.default_rng(k), slot=slot)
        for k in range(6)
        for slot in ("upper_body", "lower_body", "dresses")
    ]


@pytest.fixture(scope="module")
def drawn(scenes):
    return [render(s, H, W, NAMES) for s in scenes]


def parts(scene, height=H, width=W):
    return parts_of(paint_person(scene.wearer, scene.outfit, height, width, scene.frame))


def test_people_are_varied():
    people = [sample_wearer(np.random.default_rng(k)) for k in range(300)]
    for field, least in (
        ("skin", 8),
        ("hair", 8),
        ("hair_style", 10),
        ("build", 5),
        ("stance", 5),
        ("face", 5),
        ("figure", 3),
    ):
        assert len({getattr(w, field) for w in people}) >= least, field
    assert len({w.arms for w in people}) >= 8 and len({w.height for w in people}) > 50
    assert len(SKINS) >= 8 and len(HAIR_COLORS) >= 8 and len(HAIR_STYLES) >= 10 and len(SHOES) >= 5


@pytest.mark.parametrize("field", ["skin", "hair", "hair_style", "figure", "build", "face", "stance", "arms"])
def test_unknown_words_are_refused_by_name(field):
    with pytest.raises(ValueError, match=f"{field}: 'green'"):
        replace(PLAIN, **{field: ("green", "hanging") if field == "arms" else "green"})


def test_a_scene_is_about_its_garment():
    for k, kind in enumerate(KINDS):
        g = sample_garment(np.random.default_rng(k), kind)
        scene = sample_scene(np.random.default_rng(k), g)
        assert (
            scene.garment == g
            and scene.slot == KINDS[kind].region
            and scene == sample_scene(np.random.default_rng(k), g)
        )
    with pytest.raises(ValueError, match="slot"):
        sample_scene(np.random.default_rng(0), TEE, "dresses")
    with pytest.raises(ValueError, match="slot"):
        sample_scene(np.random.default_rng(0), slot="feet")
    with pytest.raises(ValueError, match="frame"):
        sample_scene(np.random.default_rng(0), TEE, frame="face")
    with pytest.raises(ValueError, match="wanted: 'hat'"):
        render(scene, H, W, ("person", "hat"))


def test_outfits_are_complete():
    for wrong in (
        dict(top=TEE),
        dict(bottom=JEANS),
        dict(),
        dict(top=TEE, bottom=JEANS, dress=TEE),
        dict(top=TEE, bottom=JEANS, shoes="skis"),
    ):
        with pytest.raises(ValueError):
            Outfit(**wrong)
    with pytest.raises(ValueError, match="dresses"):
        swap(Outfit(TEE, JEANS), sample_garment(np.random.default_rng(0), "dress"))
    assert not may_tuck(replace(TEE, length="cropped"), JEANS) and may_tuck(TEE, JEANS)


def test_what_is_drawn_has_the_promised_form(drawn):
    for out in drawn:
        assert tuple(out) == NAMES
        for name in ("person", "dense", "garment", "agnostic", "agnostic_box"):
            assert out[name].shape == (H, W, 3) and out[name].dtype == np.uint8
        for name in ("parse_lip", "parse_dresscode", "sketch", "worn_sketch"):
            assert out[name].shape == (H, W) and out[name].dtype == np.uint8
        for name in ("garment_mask", "worn_mask", "agnostic_mask", "agnostic_box_mask"):
            assert out[name].shape == (H, W) and out[name].dtype == bool and out[name].any()
        assert out["dense_uv"].shape == (3, H, W) and out["dense_uv"].dtype == np.float32


def test_the_shop_picture_is_the_catalogues(scenes, drawn):
    for s, out in zip(scenes, drawn):
        assert np.array_equal(out["garment"], draw(s.garment, height=H, width=W))
        apart = np.abs(out["garment"].astype(int) - (241, 240, 237)).sum(-1) > 240  # more than a shadow
        assert (
            not (apart & ~binary_dilation(out["garment_mask"])).any()
            and out["sketch"][~binary_dilation(out["garment_mask"], iterations=2)].max() == 0
        )


def test_labels_follow_the_picture(scenes, drawn):
    "A pixel that is unlike the wall belongs to the person, and the person's edge is where the picture's is."
    for s, out in zip(scenes, drawn):
        wall = out["person"][0, 0].astype(int)
        apart = np.abs(out["person"].astype(int) - wall).sum(-1)
        person = out["parse_lip"] > 0
        ground = np.zeros_like(person)
        ground[int(0.9 * H) :] = True  # the shadow on the floor
        assert not ((apart > 120) & ~binary_dilation(person) & ~ground).any()
        assert (apart[binary_erosion(person, iterations=2)] > 0).mean() > 0.9


def test_both_families_name_the_same_parts(scenes, drawn):
    for s, out in zip(scenes, drawn):
        p = parts(s)
        skirt = s.outfit.bottom is not None and s.outfit.bottom.kind == "skirt"
        for name in np.unique(p):
            here = p == name
            lip, code = LIP[PARTS[name]], DRESS_CODE[PARTS[name]]
            if skirt and PARTS[name] == "bottom":
                lip, code = 12, 5
            assert (out["parse_lip"][here] == lip).all() and (out["parse_dresscode"][here] == code).all()
        assert np.array_equal(out["worn_mask"], p == LABEL[s.part])
        assert out["worn_sketch"][~out["worn_mask"]].max() == 0 < out["worn_sketch"].max()


def test_keypoints_lie_on_the_person(scenes):
    for s in scenes:
        k, p = keypoints(s), parts(s, 256, 192)
        assert k.shape == (18, 3) and set(k[:, 2]) <= {0.0, 1.0}
        body = binary_dilation(p > 0, iterations=3)
        for name, (x, y, seen) in zip(KEYPOINTS, k):
            if seen:
                assert body[int(y * 256), int(x * 192)], (name, s)
        for name, part in (("nose", "face"), ("l_ankle", None), ("r_ankle", None)):
            x, y, _ = k[KEYPOINTS.index(name)]
            if part:
                assert p[int(y * 256), int(x * 192)] == LABEL[part]
    k = keypoints(Scene(PLAIN, Outfit(TEE, JEANS), "upper_body"))
    for joint in (
        "shoulder",
        "elbow",
        "wrist",
        "hip",
        "knee",
        "ankle",
        "eye",
        "ear",
    ):  # the person's right is the picture's left
        assert k[KEYPOINTS.index(f"r_{joint}"), 0] < k[KEYPOINTS.index(f"l_{joint}"), 0], joint
    near = keypoints(Scene(PLAIN, Outfit(TEE, JEANS), "upper_body", "half"))
    assert near[KEYPOINTS.index("l_ankle"), 2] == 0 and near[KEYPOINTS.index("l_hip"), 2] == 1
    back = keypoints(Scene(replace(PLAIN, arms=("behind back", "hanging")), Outfit(TEE, JEANS), "upper_body"))
    assert back[KEYPOINTS.index("l_wrist"), 2] == 0 and back[KEYPOINTS.index("r_wrist"), 2] == 1


def test_the_body_map_is_the_body(scenes, drawn):
    for s, out in zip(scenes, drawn):
        part, u, v = out["dense_uv"]
        assert (
            not part[out["parse_lip"] == 0].any()
            and 0 <= u.min()
            and u.max() <= 1
            and 0 <= v.min()
            and v.max() <= 1
        )
        assert {2, 23, 24} <= set(np.unique(part)) <= set(range(25))
        assert np.array_equal(out["dense"].any(-1), part > 0)
        k = keypoints(s)
        for name, ids in (("l_knee", (10, 14)), ("r_knee", (9, 13)), ("nose", (23, 24))):
            x, y, _ = k[KEYPOINTS.index(name)]
            if s.wearer.stance not in ("crossed", "walking"):
                assert part[int(y * H), int(x * W)] in ids, (name, s)
    big = render(scenes[0], 512, 384, ("dense_uv",))["dense_uv"]
    same = (big[0, 1:] == big[0, :-1]) & (big[0, 1:] > 0)
    assert np.percentile(np.abs(np.diff(big[1:], axis=1))[:, same], 99.5) < 0.06  # smooth within a part


def test_agnostic_pictures_do_not_know_the_garment():
    """Another colour or pattern leaves no trace, but in the blended edge pixels of what is kept before the
    garment."""
    for k, kind in enumerate(
        ("t-shirt", "hoodie", "jacket", "shirt", "jeans", "skirt", "dress", "slip dress", "jumpsuit")
    ):
        g = replace(
            sample_garment(np.random.default_rng(k), kind),
            color="white",
            shade="",
            second="",
            pattern="plain",
            emblem="",
            place="",
            trim="",
        )
        scene = sample_scene(np.random.default_rng(k + 50), g)
        other = dressed_in(scene, replace(g, color="navy", second="yellow", pattern="stripes"))
        a, b = (
            render(s, H, W, ("agnostic", "agnostic_box", "person", "agnostic_mask", "worn_mask"))
            for s in (scene, other)
        )
        assert not np.array_equal(a["person"], b["person"])
        edge = binary_dilation(a["worn_mask"], np.ones((3, 3), bool), iterations=2)
        for name in ("agnostic", "agnostic_box"):
            assert np.abs(a[name].astype(int) - b[name])[~edge].max() <= 4, (kind, name)
        inside = binary_erosion(
            np.isin(parts(scene), [LABEL[n] for n in ("face", "hair", "right hand", "left hand")]),
            np.ones((3, 3), bool),
            iterations=2,
        )
        assert not (a["person"] != b["person"]).any(-1)[inside].any(), kind
        assert (a["agnostic_mask"] | ~a["worn_mask"]).all()


def test_masks_keep_what_must_stay(scenes, drawn):
    for s, out in zip(scenes, drawn):
        p = parts(s)
        for name in ("face", "hair", "left shoe", "right hand"):
            assert not out["agnostic_box_mask"][p == LABEL[name]].any()
        assert (out["agnostic_box_mask"] | ~out["agnostic_mask"]).all()
        assert (out["agnostic"][out["agnostic_mask"]] == 128).all()
        assert np.array_equal(out["agnostic"][~out["agnostic_mask"]], out["person"][~out["agnostic_mask"]])
        if s.slot != "lower_body" and s.outfit.bottom is not None:
            assert not out["agnostic_mask"][p == LABEL["bottom"]].any()


def test_another_garment_on_the_same_person(scenes):
    for k, s in enumerate(scenes):
        kinds = [name for name, kind in KINDS.items() if kind.region == s.slot]
        other = dressed_in(s, sample_garment(np.random.default_rng(k + 7), kinds[k % len(kinds)]))
        assert (
            other.wearer == s.wearer
            and other.outfit.shoes == s.outfit.shoes
            and np.array_equal(keypoints(other), keypoints(s))
        )
        a, b = (render(x, H, W, ("person", "agnostic_mask")) for x in (s, other))
        changed = (a["person"] != b["person"]).any(-1)
        may = grown(a["agnostic_mask"] | b["agnostic_mask"], 2)
        assert changed.any() and (changed & ~may).sum() <= 25  # blended edges of hands before the waist
        face = binary_erosion(parts(s) == LABEL["face"], np.ones((3, 3), bool), iterations=2)
        assert np.array_equal(a["person"][face], b["person"][face])
    with pytest.raises(ValueError, match="jeans"):
        dressed_in(scenes[0], JEANS)


def test_clothes_cover_the_body():
    for build in ("slim", "average", "full"):
        for figure in ("feminine", "masculine"):
            for stance in ("straight", "contrapposto", "walking"):
                w = replace(PLAIN, build=build, figure=figure, stance=stance)
                p = parts_of(paint_person(w, Outfit(TEE, JEANS), 256, 192))
                assert (np.isin(p, (LABEL["left arm"], LABEL["right arm"]))).sum() < 60, (
                    build,
                    figure,
                )  # wrists
                leg = np.isin(p, (LABEL["left leg"], LABEL["right leg"]))
                assert leg[:215].sum() == 0, (build, figure, stance)
    for fit in (
        "slim",
        "regular",
    ):  # a slip dress is the narrowest: no shoulder or flank beside it below the arms
        dress = Garment(
            "slip dress",
            "red",
            sleeve="sleeveless",
            neckline="v-neck",
            length="knee",
            fit=fit,
            fabric="satin",
        )
        p = parts_of(
            paint_person(replace(PLAIN, build="full", arms=("hanging",) * 2), Outfit(dress=dress), 256, 192)
        )
        assert not (p == LABEL["neck"])[110:].any()


def test_hands_and_layers():
    for arm in ARMS:
        p = parts_of(paint_person(replace(PLAIN, arms=(arm, "hanging")), Outfit(TEE, JEANS), 256, 192))
        seen = (p == LABEL["left hand"]).sum()
        assert seen == 0 if arm in BEHIND else seen > (0 if arm == "in hair" else 20), arm
    coat = Garment(
        "coat",
        "navy",
        sleeve="long",
        neckline="stand collar",
        length="knee",
        fit="regular",
        closure="zip",
        fabric="wool",
    )
    p = parts_of(paint_person(PLAIN, Outfit(TEE, JEANS, outer=coat), 256, 192))
    assert (p == LABEL["top"]).sum() < 30 < (p == LABEL["outer"]).sum()
    on_hip = parts_of(paint_person(replace(PLAIN, arms=("on hip", "on hip")), Outfit(TEE, JEANS), 256, 192))
    x, y = np.nonzero(on_hip == LABEL["left hand"])
    assert len(x) and np.isin(on_hip, (LABEL["top"],)).sum() > 0
    inside, over = (
        parts_of(paint_person(PLAIN, Outfit(TEE, JEANS, tucked=t), 256, 192)) for t in (True, False)
    )
    assert (inside == LABEL["bottom"]).sum() > (over == LABEL["bottom"]).sum() and (
        inside == LABEL["top"]
    ).sum() < (over == LABEL["top"]).sum()


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_every_head_has_a_face(style):
    w = Wearer("tan", "black", style, "masculine" if HAIR_STYLES[style] == "m" else "feminine", seed=3)
    p = parts_of(paint_person(w, Outfit(TEE, JEANS), 256, 192))
    assert (p == LABEL["face"]).sum() > 250 and ((p == LABEL["hair"]).sum() > 60) == (
        style not in ("bald", "headscarf")
    )


def test_every_stance_and_shoe_draws():
    seen = {
        paint_person(
            replace(PLAIN, stance=stance, flip=flip), Outfit(TEE, JEANS, shoes=shoe), 64, 48
        ).buffer.tobytes()
        for stance in STANCES
        for flip in (False, True)
        for shoe in SHOES
    }
    assert len(seen) == 2 * len(STANCES) * len(SHOES)


def test_any_size_looks_the_same(scenes):
    for s in scenes[:4]:
        small, large = (render(s, h, h * 3 // 4, ("person", "parse_lip", "worn_mask")) for h in (64, 512))
        shrunk = large["person"].reshape(64, 8, 48, 8, 3).mean((1, 3))
        assert np.abs(shrunk - small["person"]).mean() < 6
        assert abs(large["worn_mask"].mean() - small["worn_mask"].mean()) < 0.02
    again = render(scenes[0], H, W, ("person",))["person"]
    assert np.array_equal(again, render(scenes[0], H, W, ("person",))["person"])


def test_only_what_is_wanted_is_drawn(scenes, monkeypatch):
    def refuse(*args):
        raise AssertionError("not wanted")

    monkeypatch.setattr(module, "paint_person", refuse)
    assert set(render(scenes[0], H, W, ("garment", "garment_mask", "sketch"))) == {
        "garment",
        "garment_mask",
        "sketch",
    }
    with pytest.raises(AssertionError):
        render(scenes[0], H, W, ("person",))
