"""Latents: any autoencoder, the papers' schedule, samplers, guidance, wider convolutions, masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from unifashion.ground.core import stream
from unifashion.models import latents as L
from unifashion.models.checkpoints import seeded
from unifashion.models.unet import new_inpainter

SHAPE = (2, 4, 3)
EPSILON = L.training_schedule()


@pytest.fixture
def kl():
    with seeded(0, "kl"):
        return AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                             up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4).eval()


def test_stable_diffusions_autoencoder_is_scaled_and_asked_for_its_mean(kl):
    pictures = stream(0, "pictures").integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
    latents = L.encoded(kl, pictures)
    expected = kl.encode(L.to_signed(pictures)).latent_dist.mean * 0.18215
    assert torch.allclose(latents, expected, atol=1e-5) and latents.shape == (2, 4, 2, 3)
    assert L.decoded(kl, latents).shape == (2, 16, 24, 3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_training_example_tells_the_picture_back(prediction):
    schedule = L.training_schedule(prediction)
    clean, noise = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE)
    times = torch.tensor([0, 400, 999])
    seen, wanted = L.noised(schedule, clean, noise, times)
    share = schedule.alphas_cumprod[times].view(-1, 1, 1, 1)
    if prediction == "epsilon":
        assert torch.equal(wanted, noise)
        assert torch.allclose(seen, share.sqrt() * clean + (1 - share).sqrt() * noise, atol=1e-5)
    else:
        assert torch.allclose(share.sqrt() * seen - (1 - share).sqrt() * wanted, clean, atol=1e-4)


def perfect(clean, schedule, prediction):
    "What a network that knows the picture answers."
    def answer(latents, time):
        share = schedule.alphas_cumprod[int(time)]
        noise = (latents - share.sqrt() * clean) / (1 - share).sqrt()
        return noise if prediction == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * clean

    return answer


@pytest.mark.parametrize("name, steps, calls", [("plms", 50, 51), ("ddim", 50, 50), ("dpm++", 20, 20)])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_network_that_knows_the_picture_is_led_to_it(name, steps, calls, prediction):
    clean = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3))
    know = perfect(clean, L.training_schedule(prediction), prediction)
    asked = []

    def denoise(latents, time):
        asked.append(time)
        return know(latents, time)

    way = L.sampler(name, L.training_schedule(prediction))
    found = L.sample(denoise, L.start_noise([5], SHAPE), way, steps)
    assert len(asked) == calls
    assert (found - clean).abs().max() < 0.15  # DDIM and PLMS stop at time 1, with a little noise left


def test_the_start_is_one_generator_a_picture():
    both = L.start_noise([7, 9], SHAPE)
    assert torch.equal(both[1], L.start_noise([9], SHAPE)[0]) and not torch.equal(both[0], both[1])


def test_what_comes_after_a_step_goes_on():
    seen = []

    def zero(step, latents):
        seen.append(step)
        return torch.zeros_like(latents)

    way = L.sampler("ddim", EPSILON)
    found = L.sample(lambda latents, time: latents * 0, L.start_noise([1], SHAPE), way, 3, zero)
    assert seen == [0, 1, 2] and found.abs().max() == 0


@pytest.mark.parametrize("name", ["ddim", "dpm++"])
def test_a_way_begun_at_latents_is_as_long_as_asked_and_ends_near_them(name):
    asked = []
    known = torch.randn(2, 4, 3, 2)

    def silent(latents, time):
        asked.append(int(time))
        return torch.zeros_like(latents)
    noise = L.start_noise([1, 2], known.shape[1:])
    found = L.sample(silent, noise, L.sampler(name, EPSILON), 10, begin=(known, 0.3))
    assert len(asked) <= 4 and asked[0] < 400
    with pytest.raises(ValueError, match="PLMS cannot begin"):
        L.sample(silent, noise, L.sampler("plms", EPSILON), 10, begin=(known, 0.3))
    apart = (found - known).abs().mean()
    assert apart < (L.sample(silent, noise, L.sampler(name, EPSILON), 10) - known).abs().mean()


def test_an_answer_that_is_not_finite_stops_at_its_step():
    def broken(latents, time):
        return latents * (float("nan") if time < 500 else 0)

    with pytest.raises(FloatingPointError, match="after step 3 of 4"):
        L.sample(broken, L.start_noise([1], SHAPE), L.sampler("ddim", EPSILON), 4)


@pytest.mark.parametrize("name", L.SAMPLERS)
def test_a_sampler_goes_through_the_noise_of_its_training(name):
    deep = L.training_schedule("v_prediction", beta_end=0.03)
    way = L.sampler(name, deep)
    assert torch.equal(way.alphas_cumprod, deep.alphas_cumprod) and deep.alphas_cumprod[-1] < 1e-5
    assert way.config.prediction_type == "v_prediction"
    assert L.training_schedule().alphas_cumprod[-1] == pytest.approx(0.00466, rel=1e-2)  # Stable Diffusion's


def test_a_schedule_is_made_again_from_its_facts():
    deep = L.training_schedule("v_prediction", beta_end=0.02)
    facts = L.schedule_facts(deep)
    assert facts == {"prediction": "v_prediction", "beta_end": 0.02}
    assert L.training_schedule(**facts).config == deep.config
    assert L.stored_schedule({"schedule": facts}, "own/model.json").config == deep.config
    with pytest.raises(ValueError, match="own/model.json names no schedule"):
        L.stored_schedule({"wiring": {}}, "own/model.json")


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="plms, ddim, dpm"):
        L.sampler("euler", EPSILON)


def test_guidance_of_one_is_the_condition_alone_and_other_scales_go_beyond():
    asked = []

    def denoise(latents, time, condition):
        asked.append(condition)
        return latents + condition

    latents = torch.ones(1)
    three, one = (torch.tensor([3.]),), (torch.tensor([1.]),)
    assert L.guided(denoise, three, one, 1)(latents, 0) == 4 and torch.equal(asked.pop(), three[0])
    assert L.guided(denoise, three, one, 2.5)(latents, 0) == 2 + 2.5 * (4 - 2)
    assert len(asked) == 1  # both at once


def test_guidance_hands_on_what_is_not_shown():
    def denoise(latents, time, hint, context):
        assert hint is None and len(context) == 4
        return latents * context
    shown, silent = (None, torch.full((2, 1), 3.)), (None, torch.ones(2, 1))
    assert torch.equal(L.guided(denoise, shown, silent, 2.)(torch.ones(2, 1), 0), torch.full((2, 1), 5.))


def test_a_context_is_read_once_and_processors_come_back():
    with seeded(0, "unet"):
        unet = new_inpainter(60, 4, (8, 6), (16, 16, 24), 16, 1).eval().unet
    cross = [block for block in unet.modules() if isinstance(block, Attention) and block.is_cross_attention]
    read = []
    cross[0].to_v.register_forward_hook(lambda *call: read.append(1))
    seen, words = torch.randn(2, 9, 8, 6), torch.randn(2, 7, 16)
    with torch.no_grad():
        plain = [unet(seen, time, words).sample for time in (900, 500)]
        assert len(read) == 2
        with pytest.raises(RuntimeError, match="stop"), L.context_kept(unet):
            kept = [unet(seen, time, words).sample for time in (900, 500)]
            assert len(read) == 3
            other = unet(seen, 500, words.flip(0)).sample  # another context is read
            raise RuntimeError("stop")
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(plain, kept))
    assert len(read) == 4 and not torch.allclose(other, kept[1], atol=1e-5)
    assert all(type(block.processor) is AttnProcessor2_0 for block in cross)


def test_conditions_are_forgotten_example_by_example():
    torch.manual_seed(0)
    null = torch.full((1, 3), 7.)
    kept = L.forgotten(torch.zeros(500, 2, 3), null, 0.3)
    gone = (kept == 7).all((1, 2))
    assert ((kept == 7).any((1, 2)) == gone).all() and 0.2 < gone.float().mean() < 0.4
    assert torch.equal(L.forgotten(kept, null, 0.), kept)


def test_a_wider_convolution_says_the_same_until_it_learns():
    first = nn.Conv2d(4, 8, 3, padding=1)
    wide = L.widened(first, 9)
    x = torch.randn(2, 9, 5, 6)
    assert torch.allclose(wide(x), first(x[:, :4]), atol=1e-6)
    wide(x).square().sum().backward()
    assert wide.weight.grad[:, 4:].abs().sum() > 0
    with pytest.raises(ValueError, match="takes 9 channels"):
        L.widened(wide, 4)


def test_another_order_of_channels_says_the_same():
    convolution = nn.Conv2d(4, 2, 3, padding=1)
    x = torch.randn(1, 4, 5, 5)
    before = convolution(x)
    order = [2, 0, 3, 1]
    assert torch.allclose(L.reordered(convolution, order)(x[:, order]), before, atol=1e-6)
    with pytest.raises(ValueError, match="each once"):
        L.reordered(convolution, [0, 0, 1, 2])


def test_a_place_is_painted_if_any_pixel_is():
    masks = np.zeros((1, 16, 24), bool)
    masks[0, 7, 8] = True
    assert L.latent_mask(masks)[0, 0].tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("masks, message", [
    (np.zeros((1, 16, 24), np.uint8), "true where is painted"),
    (np.zeros((1, 15, 24), bool), "must divide both"),
])
def test_masks_that_say_something_else_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        L.latent_mask(masks)


def test_outside_the_mask_the_picture_comes_back_exactly():
    rng = stream(0, "paste")
    made, picture = (rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8) for _ in range(2))
    masks = rng.random((2, 8, 8)) < 0.5
    both = L.pasted(made, picture, masks)
    assert (both[~masks] == picture[~masks]).all() and (both[masks] == made[masks]).all()
    with pytest.raises(ValueError, match="one size"):
        L.pasted(made, picture, masks[:, :4])


def test_an_autoencoder_without_a_factor_is_taken_as_it_is():
    class Plain(nn.Module):
        config = SimpleNamespace()

        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def encode(self, x): return SimpleNamespace(latents=x[:, :2])

    pictures = np.full((3, 8, 8, 3), 255, np.uint8)
    assert torch.equal(L.encoded(Plain(), pictures, batch=2), torch.ones(3, 2, 8, 8))
