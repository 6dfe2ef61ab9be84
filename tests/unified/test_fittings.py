"""Fittings: files become what a wiring is shown, and nothing else; photographs of one's own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.app import main
from unifashion.data.samples import DataError
from unifashion.data.tryon_readers import read_vitonhd
from unifashion.ground.core import Foundations, load_profile, stream
from unifashion.models.autoencoder import PatchAutoencoder
from unifashion.models.checkpoints import seeded
from unifashion.models.encoders import ImageEncoder, dual_encoder, tower_tokens
from unifashion.models.foundations import train_tokenizer
from unifashion.models.tryon_pictures import fittings_of, on_white, open_pairs, sized
from unifashion.people.scenes import keypoints, render, sample_scene
from unifashion.shop.keypoints import to_dresscode, to_vitonhd
from unifashion.shop.tryon_files import draw_pairs, write_people
from unifashion.unified.diffusion import DESIGN, TRYON, Wiring
from unifashion.unified.fittings import FittingRows, Readers, catalogue_parts, fitting_parts
from unifashion.unified.own_fittings import own_person, own_sketch
from unifashion.wardrobe.sampling import sample_garment

WORDS = train_tokenizer(["a blue striped shirt with short sleeves"] * 3)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people") / "viton_hd"
    return write_people("viton_hd", folder, draw_pairs(3, 3, 1, ("upper_body",)), 32, 24, workers=1)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFASHION_CACHE", str(tmp_path_factory.mktemp("cache")))
        with seeded(0, "readers"):
            sizes = Foundations(patch=8, width=16, layers=1, heads=2, text_layers=1)
            tower = dual_encoder(sizes, 32, 24, vocabulary=8).visual
            vae = PatchAutoencoder(4, (16, 12, 8), 1).eval()
        encoder = ImageEncoder(tower, tower_tokens, (32, 24), 16, (0.5,) * 3, (0.5,) * 3, "tiny encoder")
        yield Readers(vae, "tiny autoencoder", encoder, WORDS, WORDS, 20)


def test_unpaired_people_keep_what_lies_outside_the_mask(people):
    own = fittings_of(read_vitonhd(people, "test", paired=False), 32, 24)
    assert own.truth.shape == own.people.shape == (3, 32, 24, 3)
    assert all(first != second for first, second in zip(own.names, own.garment_ids))
    apart = np.abs(own.people.astype(int) - own.truth).max(-1)
    assert apart[~own.masks].mean() < apart[own.masks].mean() / 3


def test_paired_the_photograph_is_the_answer(people):
    own = fittings_of(read_vitonhd(people, "test"), 32, 24)
    assert own.names == own.garment_ids and np.array_equal(own.truth, own.people)


@pytest.mark.parametrize("wiring, further", [
    (Wiring(), {"pose"}), (TRYON, {"pose", "garment", "tokens"}), (DESIGN, {"pose", "sketch", "tokens"}),
    (Wiring(channels=("pose", "sketch")), {"pose", "sketch"}), (Wiring(("image",)), {"pose", "tokens"})])
def test_a_wiring_is_shown_what_it_asks_for_and_nothing_else(wiring, further, people, readers):
    parts = fitting_parts(fittings_of(read_vitonhd(people, "test"), 32, 24), readers)
    shown = FittingRows(parts, wiring, list("abc"))
    always = {"latents", "agnostic", "mask", "ids", "empty", "words", "words_mask"}
    assert set(shown[0]) == always | further
    assert shown[0]["words_mask"].any() == ("text" in wiring.context)
    batch = shown.rows([2, 0])
    assert all(torch.equal(batch[name][1], shown[0][name]) for name in batch)
    if "tokens" in further:
        seen = "sketch tokens" if wiring.hint == "sketch" else "garment tokens"
        assert np.array_equal(shown[1]["tokens"].numpy(), np.asarray(parts[seen][1], np.float32))


def test_the_sketch_is_the_one_that_was_asked_for(people, readers):
    parts = fitting_parts(fittings_of(read_vitonhd(people, "test"), 32, 24), readers)
    for sketch in ("sketch", "worn_sketch"):
        shown = FittingRows(parts, DESIGN, list("abc"), sketch)[1]["sketch"]
        assert np.array_equal(shown.numpy(), np.asarray(parts[sketch][1], np.float32))
    with pytest.raises(ValueError, match="sketch: 'drawing' is none of"):
        FittingRows(parts, DESIGN, list("abc"), "drawing")


def test_without_the_answer_a_sample_can_still_be_asked(people, readers):
    own = fittings_of(read_vitonhd(people, "test"), 32, 24)._replace(truth=None)
    assert "latents" not in FittingRows(fitting_parts(own, readers), TRYON, own.names)[0]


def test_a_catalogue_picture_is_painted_from_nothing(people, readers):
    own = fittings_of(read_vitonhd(people, "test"), 32, 24)
    parts = catalogue_parts(sized(own.garments), own.texts, readers, "garments", (32, 24))
    assert parts["mask"].min() == 1
    left = [np.asarray(part) for part in parts["agnostic"]]
    assert all(np.array_equal(part, left[0]) for part in left)  # grey, whatever the picture


def test_an_empty_sketch_and_another_world_are_refused():
    with pytest.raises(ValueError, match="an empty sketch"):
        on_white(np.zeros((4, 3), np.uint8))
    smoke = load_profile("smoke")
    with pytest.raises(ValueError, match="data 'kagl' has none"):
        open_pairs(replace(smoke.world, dataset="kagl"), smoke.formats, "train", True)


@pytest.fixture
def mine(tmp_path):
    rng = stream(3, "mine")
    scene = sample_scene(rng, sample_garment(rng, "t-shirt"), frame="half")
    drawn = render(scene, 96, 72, ("person", "garment"))
    Image.fromarray(drawn["person"]).save(tmp_path / "me.png")
    (tmp_path / "shop").mkdir()
    Image.fromarray(drawn["garment"]).save(tmp_path / "shop" / "shirt.jpg")
    points = keypoints(scene)
    (tmp_path / "openpose.json").write_text(json.dumps(to_vitonhd(points, 96, 72)))
    (tmp_path / "shop" / "dresscode.json").write_text(json.dumps(to_dresscode(points, 96, 72)))
    return tmp_path


def test_a_photograph_with_keypoints_of_either_form_is_enough(mine):
    first = own_person(mine / "me.png", mine / "openpose.json", "upper_body", 64, 48)
    second = own_person(mine / "me.png", mine / "shop" / "dresscode.json", "upper_body", 64, 48)
    assert first.person.shape == first.pose.shape == (64, 48, 3) and 0 < first.mask.mean() < 1
    assert np.array_equal(first.mask, second.mask)
    painted = own_person(mine / "me.png", mine / "openpose.json", "upper_body", 64, 48, ~first.mask)
    assert np.array_equal(painted.mask, ~first.mask) and np.array_equal(painted.pose, first.pose)
    with pytest.raises(ValueError, match="category: 'hat'"):
        own_person(mine / "me.png", mine / "openpose.json", "hat", 64, 48)


@pytest.mark.parametrize("photo, points, words", [
    ("nobody.png", "openpose.json", "nobody.png"), ("me.png", "nothing.json", "nothing.json"),
    ("me.png", "me.png", "me.png")])
def test_files_that_are_not_there_or_no_keypoints_are_named(photo, points, words, mine):
    with pytest.raises(DataError, match=words):
        own_person(mine / photo, mine / points, "upper_body", 64, 48)


def test_a_sketch_of_a_picture_is_dark_on_white_and_a_blank_one_is_refused(mine):
    lines = own_sketch(mine / "shop" / "shirt.jpg")
    assert lines.shape == (96, 72, 3) and np.median(lines) == 255 > lines.min()
    Image.new("RGB", (72, 96), "white").save(mine / "blank.png")
    with pytest.raises(DataError, match="blank.png: no line was found"):
        own_sketch(mine / "blank.png")


@pytest.mark.parametrize("words, answer", [
    ("design {0}/me.png --keypoints {0}/openpose.json", "name --sketch, or --garment"),
    ("tryon {0}/me.png {0}/shop/shirt.jpg --keypoints {0}/openpose.json --out {0}/none/a.png",
     "wanted is a file in a folder that exists"),
    ("tryon {0}/me.png {0}/shop/shirt.jpg --keypoints {0}/openpose.json --profile paper",
     "profile paper trains no pipeline: name one with --model"),
    ("tryon {0}/me.png {0}/shop/shirt.jpg --keypoints {0}/openpose.json --model {0}",
     "holds no model_index.json"),
    ("edit {0}/me.png --keypoints {0}/openpose.json --prompt shirt --profile paper",
     "profile paper trains no pipeline: name one with --model"),
    ("edit {0}/me.png --keypoints {0}/openpose.json --prompt shirt --model {0}",
     "holds no model_index.json")])
def test_the_commands_say_what_is_missing(words, answer, mine, capsys):
    assert main(words.format(mine).split()) == 1
    assert answer in capsys.readouterr().err
