"""The inpainting model: prompts, examples, weights of places, samples that depend on what they may."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unifashion.ground.core import Generator
from unifashion.models.autoencoder import PatchAutoencoder, start_from_components
from unifashion.models.foundations import load_foundation, train_tokenizer
from unifashion.models.unet import (EMPTY, OUTSIDE, PLACES, Paintings, Part, agreement,
                                    catalogue_part, greyed, in_a_row, new_inpainter, painted, painting_loss,
                                    prompts, train_inpainter, weighted_error)

SETTINGS = {"vocabulary": 60, "latent_channels": 4, "size": (4, 3), "widths": (16, 16, 24), "text_width": 16,
            "text_layers": 1}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["red shirt", "blue coat with buttons"] * 4, 60)


@pytest.fixture(scope="module")
def model():
    return new_inpainter(**SETTINGS).eval()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 24, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def vae(pictures):
    return start_from_components(PatchAutoencoder(4, (8, 8, 8), 1), pictures)


def test_a_prompt_that_fills_every_place_is_taken_and_one_more_is_refused(tokenizer):
    tokenizer.no_truncation()
    piece = len(tokenizer.encode("red").ids) - 2
    room = (PLACES - 2) // piece
    assert prompts(tokenizer, ["red " * room]).shape == (1, PLACES)
    with pytest.raises(ValueError, match=r"the text encoder reads 77: cut 'red red"):
        prompts(tokenizer, ["fine", "red " * (room + 1)])


def test_no_prompt_is_the_empty_prompt(tokenizer):
    assert torch.equal(prompts(tokenizer, [""])[0], EMPTY)


def test_texts_in_a_row_never_leave_their_room_and_reach_its_end():
    torch.manual_seed(1)
    lengths = [len(in_a_row([[1] * 9, [2] * 30], 75)) for _ in range(300)]
    assert max(lengths) == 75 and min(lengths) == 9


def test_an_example_is_read_row_by_row(tokenizer):
    latents = np.arange(2 * 4 * 4 * 3, dtype=np.float16).reshape(2, 4, 4, 3)
    masks = np.zeros((2, 4, 3), bool)
    masks[1, 2, 1] = True
    data = Paintings([catalogue_part(latents, ["a", "b"], np.full((4, 4, 3), 7, np.float16)),
                      Part(latents + 1, [latents + 2], [masks], ["b", "a"])],
                     {"a": ["red shirt"], "b": ["blue coat"]}, tokenizer)
    assert data.ids == ["a", "b", "b", "a"]
    shop, person = data[1], data[3]
    assert (shop["masked"] == 7).all() and (shop["mask"] == 1).all() and shop["mask"].shape == (1, 4, 3)
    assert np.array_equal(person["latents"], latents[1] + 1) and person["mask"].sum() == 1
    assert np.array_equal(person["masked"], latents[1] + 2)
    assert tokenizer.decode(person["ids"].tolist()).startswith("red shirt")


def test_a_product_without_text_is_named(tokenizer):
    part = catalogue_part(np.zeros((1, 4, 4, 3), np.float16), ["coat 7"], np.zeros((4, 4, 3), np.float16))
    with pytest.raises(ValueError, match="1 products have no text, 'coat 7' among them"):
        Paintings([part], {"coat 7": [""]}, tokenizer)


def test_a_painted_place_counts_twenty_times_one_that_is_not():
    told, wanted = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1., 3.]], [[1., 3.]]]])
    mask = torch.tensor([[[[1., 0.]]]])
    by_hand = (1 * 1 + OUTSIDE * 9) / (1 + OUTSIDE)
    assert OUTSIDE == 0.05 and torch.isclose(weighted_error(told, wanted, mask), torch.tensor(by_hand))


def test_the_input_has_the_order_of_stable_diffusions_inpainting_model(model):
    seen = {}
    model.unet.conv_in.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    noisy, mask, masked = (torch.full((1, n, 4, 3), float(k)) for k, n in ((1, 4), (2, 1), (3, 4)))
    model(noisy, torch.tensor([3]), mask, masked, model.states(EMPTY[None]))
    assert seen["x"][0, :, 0, 0].tolist() == [1] * 4 + [2] + [3] * 4


def test_every_weight_is_reached_by_the_loss():
    own = new_inpainter(**SETTINGS)
    torch.manual_seed(0)
    batch = {"latents": torch.randn(4, 4, 4, 3), "masked": torch.randn(4, 4, 4, 3),
             "mask": torch.ones(4, 1, 4, 3), "ids": torch.randint(6, 60, (4, PLACES))}
    painting_loss(own, batch).backward()
    assert [name for name, p in own.named_parameters() if p.grad is None] == []


def test_a_sample_depends_on_its_text_its_seed_and_what_the_mask_leaves(model, vae, tokenizer, pictures):
    masks = np.zeros((6, 32, 24), bool)
    masks[:, 8:24, 8:16] = True
    ids = prompts(tokenizer, ["red shirt", "blue coat"] * 3)
    told = painted(model, vae, ids, pictures, masks, range(6), steps=3)
    one = painted(model, vae, ids[2:3], pictures[2:3], masks[:1], [2], steps=3)
    assert np.abs(one[0].astype(int) - told[2]).max() <= 1  # whatever else is in the batch
    hidden = pictures.copy()
    hidden[masks] = 77  # what the mask hides
    assert np.array_equal(painted(model, vae, ids, hidden, masks, range(6), steps=3), told)
    for changed in (dict(ids=ids.flip(0)), dict(seeds=range(6, 12)), dict(pictures=pictures[::-1])):
        given = dict(ids=ids, pictures=pictures, masks=masks, seeds=range(6)) | changed
        assert not np.array_equal(painted(model, vae, **given, steps=3), told)


def test_guidance_one_is_the_conditional_answer_alone(model, vae, tokenizer, pictures):
    ids = prompts(tokenizer, ["red shirt"] * 2)
    masks = np.ones((2, 32, 24), bool)
    asked = []
    hook = model.unet.register_forward_pre_hook(lambda _, given: asked.append(given[2].clone()))
    painted(model, vae, ids, pictures[:2], masks, range(2), steps=2, guidance=1.)
    hook.remove()
    assert len(asked) == 2 and all(torch.equal(own, model.states(ids)) for own in asked)


def test_masks_of_another_size_are_refused(pictures):
    with pytest.raises(ValueError, match=r"masks of \(6, 16, 12\) for pictures of \(6, 32, 24\)"):
        greyed(pictures, np.zeros((6, 16, 12), bool))


def test_patterned_and_plain_garments_are_counted_apart():
    class Says(torch.nn.Module):
        values = {"top pattern": ["plain", "striped"]}
        one = torch.nn.Parameter(torch.zeros(1))

        def parameters(self): return iter([self.one])
        def forward(self, pictures): return {"top pattern": torch.tensor([[0., 1.]] * len(pictures))}

    truth = {"top pattern": ["plain", "striped", "striped", None]}
    found = agreement(Says(), np.zeros((4, 8, 8, 3), np.uint8), truth)
    assert found == {"pattern": pytest.approx(2 / 3), "pattern of patterned": 1., "pattern of plain": 0.}


def test_training_goes_on_from_the_part_that_is_there(tokenizer, tmp_path):
    "With steps that change nothing, the second training ends where the first has ended."
    latents = np.random.default_rng(0).normal(size=(4, 4, 4, 3)).astype(np.float16)
    texts = dict.fromkeys("abcd", ["red shirt"])
    data = Paintings([catalogue_part(latents, list("abcd"), latents[0])], texts, tokenizer)
    g = Generator(unet_widths=(16, 16, 24), text_width=16, text_layers=1, unet_steps=2, unet_batch=2,
                  unet_lr=0.1)
    train_inpainter(data, tokenizer, g, tmp_path, tmp_path / "first", log=False)
    first, _ = load_foundation(tmp_path / "inpainter")
    still = replace(g, unet_lr=1e-12)
    card = train_inpainter(data, tokenizer, still, tmp_path, tmp_path / "second", further=True, log=False)
    second, _ = load_foundation(tmp_path / "inpainter")
    assert card["training"]["steps before"] == 2
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)
    train_inpainter(data, tokenizer, still, tmp_path, tmp_path / "third", log=False)
    fresh, card = load_foundation(tmp_path / "inpainter")
    assert card["training"]["steps before"] == 0
    assert not all(torch.allclose(first[name], fresh[name], atol=1e-3) for name in first)
