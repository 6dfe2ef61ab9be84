"""The autoencoder: the components it starts from, what it takes and gives, training, storing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unifashion.ground.core import Generator, stream
from unifashion.models.autoencoder import (Pictures, PatchAutoencoder, components, drawn_autoencoder,
                                           reconstructed, reconstruction_loss, signal_to_noise,
                                           start_from_components, to_bytes, to_signed, train_autoencoder,
                                           troubled)

SMALL = {"widths": (16, 12, 8), "layers": 1}


def pictures(n=12, seed=0, height=32, width=24):
    "Smooth noise, so that components mean something."
    coarse = stream(seed, "pictures").integers(0, 256, (n, height // 8, width // 8, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)[:, :height, :width]


def test_components_are_orthonormal_sorted_and_keep_what_the_eigenvalues_say():
    images = stream(1, "rough").integers(0, 256, (20, 32, 24, 3)).astype(np.uint8)
    colour, vectors, deviations = components(images, 40)
    assert torch.allclose(vectors @ vectors.T, torch.eye(40), atol=1e-4)
    assert (deviations.diff() <= 1e-6).all()
    patches = F.pixel_unshuffle(to_signed(images) - colour.view(1, 3, 1, 1), 8).permute(0, 2, 3, 1)
    kept = patches.reshape(-1, 192) @ vectors.T
    assert torch.allclose(kept.square().mean(0).sqrt(), deviations, rtol=1e-3)


def test_it_starts_as_the_components_exactly():
    images = stream(2, "rough").integers(0, 256, (20, 32, 24, 3)).astype(np.uint8)
    model = start_from_components(PatchAutoencoder(10, **SMALL), images)
    colour, vectors, _ = components(images, 10)
    x = to_signed(images[:2])
    patches = F.pixel_unshuffle(x - colour.view(1, 3, 1, 1), 8)
    projected = torch.einsum("kp,kq,nqij->npij", vectors, vectors, patches)
    expected = F.pixel_shuffle(projected, 8) + colour.view(1, 3, 1, 1)
    assert torch.allclose(model(x), expected, atol=1e-4)
    assert model.encode(to_signed(images)).latents.square().mean().item() == pytest.approx(1, abs=0.02)


def test_all_components_give_the_picture_back():
    images = pictures()
    model = start_from_components(PatchAutoencoder(192, **SMALL), images)
    assert np.abs(reconstructed(model, images).astype(int) - images).max() <= 1


def test_bytes_survive_the_way_there_and_back_and_other_sizes_are_refused():
    images = stream(3, "bytes").integers(0, 256, (2, 16, 8, 3)).astype(np.uint8)
    assert (to_bytes(to_signed(images)) == images).all()
    with pytest.raises(ValueError, match="8 must divide both"):
        to_signed(images[:, :15])


def test_signal_to_noise_is_one_number_a_picture():
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    other = images.copy()
    other[0] += 10
    other[1] += 100
    assert signal_to_noise(other, images) == pytest.approx([20 * np.log10(25.5), 20 * np.log10(2.55)])


def test_the_loss_sees_edges():
    "A constant error and a striped one of equal size: the second costs more."
    class Off:
        def __init__(self, error): self.error = error
        def encode(self, x): return type("Told", (), {"latents": x})
        def decode(self, latents): return type("Told", (), {"sample": self.base + self.error})

    base = torch.zeros(1, 3, 8, 8)
    stripes = torch.ones(1, 3, 8, 8)
    stripes[..., ::2] = -1
    batch = {"image": torch.full((1, 8, 8, 3), 127.5)}  # signed: 0
    losses = []
    for error in (torch.ones_like(base), stripes):
        model = Off(error * 0.1)
        model.base = base
        losses.append(reconstruction_loss(model, batch))
    assert losses[0]["squared"] == pytest.approx(0.01) and losses[1]["squared"] == pytest.approx(0.01)
    assert losses[0]["loss"] == pytest.approx(10 * 0.01)
    assert losses[1]["loss"] == pytest.approx(10 * (0.01 + 0.5 * 0.04))


def test_pictures_of_several_stacks_are_examples_in_order():
    first, second = pictures(3), pictures(2, seed=1)
    data = Pictures(first, second)
    assert len(data) == 5
    assert (data[4]["image"].numpy() == second[1]).all() and (data[2]["image"].numpy() == first[2]).all()


def test_trained_stored_opened_it_is_the_same_and_the_card_says_what_it_reaches(tmp_path):
    g = Generator(0, 6, (16, 12, 8), 1, autoencoder_steps=4, autoencoder_batch=4, autoencoder_lr=1e-3)
    card = train_autoencoder(Pictures(pictures()), {"held": pictures(4, seed=5)}, g, tmp_path,
                             tmp_path / "run", log=False, command="a test")
    model = drawn_autoencoder(tmp_path)
    again = signal_to_noise(reconstructed(model, pictures(4, seed=5)), pictures(4, seed=5)).mean()
    assert card["metrics"]["held: dB"] == pytest.approx(again, abs=0.1)
    assert card["settings"]["latent_channels"] == 6 and card["command"] == "a test"
    assert not any(p.requires_grad for p in model.parameters())


def test_the_decoder_learns_by_itself_and_latents_stay_what_they_were(tmp_path):
    g = Generator(0, 6, (16, 12, 8), 1, autoencoder_steps=4, autoencoder_batch=4, autoencoder_lr=1e-3)
    given = Pictures(pictures()), {"held": pictures(4, seed=5)}
    train_autoencoder(*given, g, tmp_path, tmp_path / "run", log=False)
    first = drawn_autoencoder(tmp_path)
    card = train_autoencoder(*given, replace(g, decoder_steps=3), tmp_path, tmp_path / "then", further=True,
                             log=False)
    then = drawn_autoencoder(tmp_path)
    before = first.state_dict()
    moved = [name for name, weight in then.state_dict().items() if not torch.equal(weight, before[name])]
    assert moved and all(name.startswith(("unpatch.", "paint.")) for name in moved)
    x = to_signed(pictures(4, seed=5))
    assert torch.equal(then.encode(x).latents, first.encode(x).latents)
    assert (tmp_path / "then" / "decoder").is_dir() and not (tmp_path / "then" / "whole").exists()
    level = signal_to_noise(troubled(then, pictures(4, seed=5), 0.3), pictures(4, seed=5)).mean()
    assert card["metrics"]["held: dB, noise of 0.3"] == pytest.approx(level, abs=0.1)
    assert card["training"]["decoder_steps"] == 3


def test_trained_at_once_or_further_it_is_the_same_autoencoder(tmp_path):
    g = Generator(0, 6, (16, 12, 8), 1, autoencoder_steps=4, autoencoder_batch=4, autoencoder_lr=1e-3)
    given = Pictures(pictures()), {"held": pictures(4, seed=5)}
    both = replace(g, decoder_steps=3)
    train_autoencoder(*given, both, tmp_path / "once", tmp_path / "a", log=False)
    train_autoencoder(*given, g, tmp_path / "twice", tmp_path / "b", log=False)
    train_autoencoder(*given, both, tmp_path / "twice", tmp_path / "c", further=True, log=False)
    once, twice = (drawn_autoencoder(tmp_path / name) for name in ("once", "twice"))
    x = to_signed(pictures(4, seed=5))
    assert torch.equal(once.encode(x).latents, twice.encode(x).latents)
    told = [reconstructed(model, pictures(4, seed=5)).astype(int) for model in (once, twice)]
    assert np.abs(told[0] - told[1]).mean() < 1  # of 255; the second begins with stored, rounded weights


def test_without_noise_nothing_is_troubled():
    model = start_from_components(PatchAutoencoder(6, **SMALL), pictures())
    calm = troubled(model, pictures(4), 0.)
    assert np.array_equal(calm, reconstructed(model, pictures(4)))
    assert (signal_to_noise(troubled(model, pictures(4), 0.5), calm) < 40).all()


def test_it_is_a_diffusers_model(tmp_path):
    model = start_from_components(PatchAutoencoder(6, **SMALL), pictures())
    model.save_pretrained(tmp_path)
    opened = PatchAutoencoder.from_pretrained(tmp_path)
    x = to_signed(pictures(2))
    assert torch.equal(opened(x), model(x)) and model.encode(x, return_dict=False)[0].shape == (2, 6, 4, 3)
