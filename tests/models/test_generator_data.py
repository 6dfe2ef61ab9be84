"""What generators learn from: latents row by row, questions that their pictures do not answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unifashion.ground.core import load_profile
from unifashion.models.autoencoder import PatchAutoencoder, start_from_components
from unifashion.models.encoders import picture_stack
from unifashion.models.generator_data import (asked_of, drawn_slice, latent_encoder, named, other_garments,
                                              painting_parts)
from unifashion.models.latents import encoded
from unifashion.shop.worn_masks import unpacked
from unifashion.wardrobe.garments import KINDS

WORLD = replace(load_profile("smoke").world, products=40)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFASHION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield drawn_slice(WORLD, workers=1)


@pytest.fixture(scope="module")
def vae(slices):
    people = np.array(slices["train"].worn.images[:20])
    return start_from_components(PatchAutoencoder(4, (8, 8, 8), 1), people)


def test_no_held_out_garment_is_learned_from(slices):
    train, test = (set(slices[split].garments) for split in ("train", "test"))
    assert train and test and not train & test
    assert set(slices["train"].worn.products) <= train


def test_latents_lie_row_by_row_beside_masks_and_products(slices, vae, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    own = slices["train"]
    shop, people = painting_parts(own, vae, "tiny")
    fronts = own.catalogue.first_views()  # no text says that a view is a detail or a back
    assert len(shop.latents) == len(set(own.catalogue.products)) < len(own.catalogue)
    assert shop.products == fronts.products
    assert np.allclose(shop.latents[:2], encoded(vae, picture_stack(fronts, *own.worn.images.shape[1:3])[:2]),
                       atol=0.02)
    assert people.products == own.worn.products
    assert np.allclose(people.latents[-3:], encoded(vae, np.array(own.worn.images[-3:])), atol=0.02)
    for form, left, places in zip(("garment", "box"), people.masked, people.masks):
        mask = unpacked(own.masks[:2], form)
        grey = own.worn.images[:2].copy()
        grey[mask] = 128
        assert np.allclose(left[:2], encoded(vae, grey), atol=0.02)
        assert np.array_equal(places[0], mask[0].reshape(8, 8, 6, 8).any((1, 3)))


def test_another_autoencoder_has_other_latents(slices, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    own = slices["test"]
    first, second = (start_from_components(PatchAutoencoder(channels, (8, 8, 8), 1),
                                           np.array(own.worn.images)) for channels in (4, 6))
    assert painting_parts(own, first, "four")[1].latents.shape[1] == 4
    assert painting_parts(own, second, "six")[1].latents.shape[1] == 6


def test_a_wrong_size_is_refused(vae):
    encoder = latent_encoder(vae, (64, 48), "tiny")
    with pytest.raises(ValueError, match="tiny: pictures of"):
        encoder.normalised(torch.zeros(1, 32, 24, 3, dtype=torch.uint8))


def test_what_is_asked_is_another_garment_of_the_region(slices):
    own = slices["test"]
    asked = asked_of(own, 4)
    for frame in ("half", "full"):
        rows = [row for row, shown in enumerate(own.worn.frames) if shown == frame]
        question = asked[frame]
        assert len(question.texts) == len(question.pictures) == len(question.masks) <= 4
        regions = [name.split()[0] for name in question.truth if name.endswith("kind")]
        assert set(regions) <= {"upper_body", "lower_body", "dresses"} and rows
    assert asked["catalogue"].masks.all()


def test_to_each_the_next_of_its_region():
    regions = {"a": "top", "b": "dress", "c": "top"}
    assert other_garments(["a", "b", "c"], regions) == ["c", "b", "a"]


def test_nothing_to_name_is_none(slices):
    garments = list(slices["train"].garments.values())
    for name, values in named(garments).items():
        region = name.split()[0]
        for garment, value in zip(garments, values):
            assert value != ""
            if KINDS[garment.kind].region != region: assert value is None
