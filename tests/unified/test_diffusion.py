"""The denoiser: surgery that changes nothing, conditions that reach it, sizes of the papers' parts."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from unifashion.models.checkpoints import seeded
from unifashion.models.foundations import PUBLISHED
from unifashion.models.latents import sampler, start_noise, training_schedule
from unifashion.models.qformer import QFormer
from unifashion.models.unet import EMPTY, PLACES, Inpainter, new_inpainter
from unifashion.unified.denoising import denoising_loss, generated, load_denoiser, save_denoiser
from unifashion.unified.diffusion import (DESIGN, TRYON, Wiring, decoder_states, given_of, look_down,
                                          new_denoiser, paint_up, query_slots, time_of)

TEXT = CLIPTextConfig(vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                      num_attention_heads=2, max_position_embeddings=PLACES)
TIME = torch.tensor([400])
SYSTEMS = {"try-on": TRYON, "design": DESIGN, "text only": Wiring(),
           "without cloth": Wiring(("text", "queries")),
           "one image token": Wiring(("image",), trained=("unet",)),
           "StableVITON's": Wiring(("image",), "garment"), "MGD's": Wiring(channels=("pose", "sketch"))}


@pytest.fixture(scope="module")
def base():
    return new_inpainter(60, 4, (8, 6), (16, 16, 24), 16, 1, beta_end=0.03).eval()


@pytest.fixture(scope="module")
def parts():
    with seeded(0, "qformer"):
        qformer = QFormer(12, 60, width=16, layers=2, heads=2, n_query=5, embed=8, max_words=40)
    return {"qformer": qformer, "image_width": 12}


@pytest.fixture
def batch():
    torch.manual_seed(3)
    latents = {name: torch.randn(3, 4, 8, 6) for name in ("latents", "agnostic", "pose", "sketch", "garment")}
    return latents | {"mask": torch.ones(3, 1, 8, 6), "ids": torch.randint(6, 60, (3, PLACES)),
                      "empty": EMPTY.expand(3, -1), "tokens": torch.randn(3, 7, 12),
                      "words": torch.randint(6, 60, (3, 9)),
                      "words_mask": torch.ones(3, 9, dtype=torch.bool)}


def drawn(model, batch, seeds, steps=3, guidance=3.):
    noise = start_noise(seeds, batch["agnostic"].shape[1:])
    way = sampler("dpm++", model.schedule)
    return generated(model, batch, noise, way, steps, guidance)


def told(model, batch, context=None):
    with torch.no_grad():
        given = given_of(model, batch)
        return model(batch["latents"], TIME, given.beside, given.hint,
                     given.context if context is None else context)


@pytest.mark.parametrize("name", SYSTEMS)
def test_at_step_zero_nothing_but_the_context_has_changed(name, base, parts, batch):
    model = new_denoiser(base, SYSTEMS[name], 0, **parts).eval()
    states = base.states(batch["ids"]).detach()
    with torch.no_grad():
        before = base(batch["latents"], TIME, batch["mask"], batch["agnostic"], states)
    assert torch.allclose(told(model, batch, states), before, atol=1e-5)


BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")


@pytest.mark.parametrize("kinds", [BLOCKS, BLOCKS[::-1]])
def test_the_two_halves_are_the_u_net_bit_by_bit(kinds):
    up = tuple(kind.replace("Down", "Up") for kind in reversed(kinds))
    with seeded(0, "unet"):
        unet = UNet2DConditionModel(sample_size=8, in_channels=5, out_channels=4, block_out_channels=(16, 24),
                                    down_block_types=kinds, up_block_types=up, layers_per_block=2,
                                    cross_attention_dim=16, attention_head_dim=2, norm_num_groups=8).eval()
    x, context = torch.randn(2, 5, 9, 6), torch.randn(2, 7, 16)  # 9 and 6: halved, and grown back to 9
    with torch.no_grad():
        emb = time_of(unet, TIME, x)
        assert torch.equal(paint_up(unet, *look_down(unet, x, emb, context), emb, context),
                           unet(x, TIME.expand(2), context).sample)


def test_every_condition_reaches_the_answer_once_training_has_begun(base, parts, batch):
    model = new_denoiser(base, DESIGN, 0, **parts)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=.5)
    for _ in range(3):
        denoising_loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    before = told(model, batch)
    for name in ("agnostic", "pose", "sketch", "tokens", "ids", "words"):
        changed = dict(batch, **{name: batch[name].flip(0)})
        assert not torch.equal(told(model, changed), before), name
    assert torch.equal(told(model, dict(batch, garment=batch["garment"] + 1)), before)  # try-on's alone


def test_only_query_slots_go_on(parts, batch):
    slots = query_slots(parts["qformer"], batch)
    assert slots.shape == (3, 5, 16)
    words = dict(batch, words=batch["words"].flip(1))
    assert not torch.equal(query_slots(parts["qformer"], words), slots)  # which have read the words


def test_what_is_frozen_has_no_gradient_and_what_is_trained_has(base, parts, batch):
    frozen = Wiring(("text", "queries"), "garment", trained=("qformer",))
    model = new_denoiser(base, frozen, 0, **parts)
    denoising_loss(model, batch).backward()
    moving = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert moving == {"qformer", "adapters", "nothing", "unet"}
    assert [name for name, p in model.named_parameters()
            if name.startswith("unet") and p.grad is not None] == ["unet.conv_in.weight", "unet.conv_in.bias"]
    assert all(p.grad is None for p in base.parameters())


def test_the_mask_may_stand_behind_the_masked_latents(base, batch):
    "Paint-by-Example has the paper's order already; Stable Diffusion's inpainting model has not."
    other = new_inpainter(60, 4, (8, 6), (16, 16, 24), 16, 1)
    other.mask_first = False
    weight = other.unet.conv_in.weight
    with torch.no_grad():
        weight.copy_(weight[:, [*range(4), *range(5, 9), 4]].clone())
    models = [new_denoiser(own, Wiring(), 0).eval() for own in (base, other)]
    assert torch.allclose(told(models[0], batch), told(models[1], batch), atol=1e-6)


def test_a_four_channel_u_net_is_widened(batch):
    with seeded(0, "plain"):
        unet = UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 24),
                                    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1,
                                    cross_attention_dim=16, attention_head_dim=2, norm_num_groups=8)
        plain = Inpainter(CLIPTextModel(TEXT), unet, training_schedule()).eval()
    model = new_denoiser(plain, Wiring(), 0).eval()
    states = plain.states(batch["ids"]).detach()
    with torch.no_grad():
        before = plain.unet(batch["latents"], TIME.expand(3), states).sample
    assert torch.allclose(told(model, batch, states), before, atol=1e-5)
    assert model.schedule.config.prediction_type == "epsilon"


def test_sizes_of_the_published_parts():
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        base = Inpainter(CLIPTextModel(CLIPTextConfig(hidden_size=768, num_attention_heads=12,
                                                      num_hidden_layers=12, intermediate_size=3072)), unet,
                         training_schedule())
        count = sum(p.numel() for p in unet.parameters())
        model = new_denoiser(base, Wiring(hint="garment", blind=3), 0)
    assert count == PUBLISHED["sd-1.4 unet"].parameters
    assert sum(p.numel() for p in model.unet.parameters()) == 859_546_884  # 13 channels (App. B)
    assert len(model.attend) == 9
    seen = [copied for _, copied, _ in decoder_states(unet)[3:]]
    assert seen == [1280, 1280, 640, 640, 640, 320, 320, 320, 320]
    assert model.copy.hint.weight.shape == (320, 4, 3, 3)


@pytest.mark.parametrize("begin", ["latents", "zero"])
def test_a_copy_begins_to_see_its_hint_as_noisy_latents_or_not_at_all(begin, base):
    model = new_denoiser(base, Wiring(hint="garment", begin=begin), 0)
    own = model.unet.conv_in.weight[:, :4]
    assert own.any() and not model.copy.hint.bias.any()
    assert torch.equal(model.copy.hint.weight, own if begin == "latents" else torch.zeros_like(own))


def test_an_unknown_wiring_is_refused():
    with pytest.raises(ValueError, match="hint: 'shoe' is none of"):
        Wiring(hint="shoe")


def test_a_forgotten_context_is_the_empty_text_and_a_learned_vector(base, parts, batch):
    model = new_denoiser(base, DESIGN, 0, **parts).eval()
    given = given_of(model, batch)
    assert torch.allclose(given.nothing[:, :PLACES], base.states(EMPTY[None]).expand(3, -1, -1), atol=1e-6)
    assert torch.equal(given.nothing[:, PLACES:], model.nothing["queries"].expand(3, 5, -1))


@pytest.mark.parametrize("name", ["try-on", "text only"])
def test_a_sample_depends_on_conditions_and_seed_and_on_nothing_else(name, base, parts, batch):
    model = new_denoiser(base, SYSTEMS[name], 0, **parts)
    whole = drawn(model, batch, [1, 2, 3])
    alone = {key: value[1:2] for key, value in batch.items()}
    assert torch.allclose(drawn(model, alone, [2]), whole[1:2], atol=1e-4)  # not on its batch
    no_truth = dict(batch, latents=torch.zeros_like(batch["latents"]))
    assert torch.equal(drawn(model, no_truth, [1, 2, 3]), whole)
    assert not torch.equal(drawn(model, batch, [4, 5, 6]), whole)


def test_guidance_one_asks_for_the_conditional_answer_alone(base, parts, batch):
    model = new_denoiser(base, TRYON, 0, **parts).eval()
    asked = []
    model.register_forward_pre_hook(lambda _, given: asked.append(given[-1]))
    drawn(model, batch, [1, 2, 3], steps=2, guidance=1.)
    given = given_of(model, batch)
    assert len(asked) == 2 and all(torch.equal(context, given.context) for context in asked)


def test_conditions_are_made_once_a_picture(base, parts, batch):
    model = new_denoiser(base, DESIGN, 0, **parts)
    calls = []
    model.text_encoder.register_forward_hook(lambda *_: calls.append("words"))
    model.qformer.qformer.register_forward_hook(lambda *_: calls.append("queries"))
    drawn(model, batch, [1, 2, 3], steps=5)
    assert sorted(calls) == ["queries", "words", "words"]  # words, and the empty text


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_stored_denoiser_says_the_same(name, base, parts, batch, tmp_path):
    model = new_denoiser(base, SYSTEMS[name], 0, **parts).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    save_denoiser(model, tmp_path)
    again = load_denoiser(tmp_path)
    assert again.wiring == model.wiring
    assert again.schedule.config == model.schedule.config and again.schedule.config.beta_end == 0.03
    assert torch.equal(told(again, batch), told(model, batch))
    assert UNet2DConditionModel.from_pretrained(tmp_path / "unet").config.in_channels == \
        model.unet.conv_in.in_channels


def test_a_denoiser_that_names_no_schedule_is_refused(base, tmp_path):
    save_denoiser(new_denoiser(base, Wiring(), 0), tmp_path)
    kept = json.loads((tmp_path / "denoiser.json").read_text())
    del kept["schedule"]
    (tmp_path / "denoiser.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="denoiser.json names no schedule"):
        load_denoiser(tmp_path)


def test_weights_of_another_denoiser_are_refused(base, parts, tmp_path):
    save_denoiser(new_denoiser(base, TRYON, 0, **parts), tmp_path)
    other = tmp_path / "other"
    save_denoiser(new_denoiser(base, Wiring(), 0), other)
    (other / "denoiser.safetensors").rename(tmp_path / "denoiser.safetensors")
    with pytest.raises(ValueError, match="does not fit its denoiser.json: 'adapters"):
        load_denoiser(tmp_path)
