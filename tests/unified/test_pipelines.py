"""Pipelines: what they refuse, what they leave alone, how they are stored; ours and the published layouts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.demo_models import BookModels
from unifashion.ground.core import Foundations
from unifashion.models.autoencoder import PatchAutoencoder
from unifashion.models.checkpoints import seeded
from unifashion.models.encoders import ImageEncoder, dual_encoder, tower_tokens
from unifashion.models.foundations import train_tokenizer
from unifashion.models.latents import sampler
from unifashion.models.painting import opened_mask
from unifashion.models.qformer import QFormer
from unifashion.models.stable_diffusion import open_stable_diffusion
from unifashion.models.stand_ins import write_generator
from unifashion.models.unet import new_inpainter
from unifashion.unified.diffusion import DESIGN, TRYON, Wiring, new_denoiser
from unifashion.unified.own_fittings import OwnPerson
from unifashion.unified.pipelines import UniFashionPipeline

WORDS = train_tokenizer(["a blue striped shirt with short sleeves"] * 3)
RNG = np.random.default_rng(0)
PERSON, GARMENT, POSE = RNG.integers(0, 255, (3, 32, 24, 3), dtype=np.uint8)
MASK = np.zeros((32, 24), bool)
MASK[8:24, 6:18] = True


def readers(words=WORDS):
    with seeded(0, "readers"):
        sizes = Foundations(patch=8, width=16, layers=1, heads=2, text_layers=1)
        tower = dual_encoder(sizes, 32, 24, vocabulary=8).visual
        qformer = QFormer(16, words.get_vocab_size(), width=16, layers=2, heads=2, n_query=4, embed=8,
                          max_words=40)
    return ImageEncoder(tower, tower_tokens, (32, 24), 16, (0.5,) * 3, (0.5,) * 3, "tiny"), qformer


def pipeline(wiring):
    encoder, qformer = readers()
    reads = bool({"queries", "image"} & set(wiring.context))
    with seeded(0, "pipeline"):
        vae = PatchAutoencoder(4, (16, 12, 8), 1).eval()
    base = new_inpainter(WORDS.get_vocab_size(), 4, (4, 3), (16, 16, 24), 32, 1)
    denoiser = new_denoiser(base, wiring, 0, qformer, 16).eval()
    pipe = UniFashionPipeline(vae, denoiser, sampler("dpm++", denoiser.schedule), WORDS,
                              image_encoder=encoder if reads else None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def tryon():
    return pipeline(TRYON)


def asked(**changes):
    return dict(image=PERSON, mask_image=MASK, garment_image=GARMENT, pose_image=POSE,
                num_inference_steps=3, output_type="np") | changes


def seed(number=0):
    return torch.Generator().manual_seed(number)


def test_outside_the_mask_the_picture_comes_back_exactly_or_not_at_all(tryon):
    pasted = tryon(**asked(generator=seed())).images[0]
    painted = tryon(**asked(generator=seed(), paste_back=False)).images[0]
    assert np.array_equal(pasted[~MASK], PERSON[~MASK])
    assert np.array_equal(pasted[MASK], painted[MASK])
    assert not np.array_equal(painted[~MASK], PERSON[~MASK])


def test_a_picture_does_not_depend_on_the_others_of_its_call(tryon):
    several = dict(image=[PERSON, GARMENT], mask_image=[MASK, MASK],
                   garment_image=[GARMENT, PERSON], pose_image=[POSE, POSE])
    both = tryon(**asked(**several, generator=[seed(3), seed(4)])).images
    alone = tryon(**asked(generator=seed(3))).images[0]
    assert np.abs(both[0].astype(int) - alone).max() <= 1


def test_the_page_paints_with_it_and_hears_of_each_step(tryon):
    page = BookModels.__new__(BookModels)  # its models are these
    page.model = SimpleNamespace(try_on=tryon, design=pipeline(DESIGN))
    own, steps = OwnPerson(PERSON, MASK, POSE, np.zeros((18, 3))), []
    how = dict(steps=3, guidance=3.0, seed=0, told=lambda done, of_all: steps.append((done, of_all)))
    made = np.asarray(page.try_on(own, GARMENT, **how))
    assert np.array_equal(made, tryon(**asked(generator=seed())).images[0])
    assert steps == [(1, 3), (2, 3), (3, 3)]
    designs = [np.asarray(page.design(own, text, GARMENT, **how)) for text in ("a blue shirt", "stripes")]
    assert np.array_equal(designs[0][~MASK], PERSON[~MASK])
    assert not np.array_equal(*designs) and len(steps) == 9


def test_pil_and_arrays_are_the_same(tryon):
    from_pil = asked(image=Image.fromarray(PERSON), mask_image=Image.fromarray(MASK),
                     garment_image=Image.fromarray(GARMENT), pose_image=Image.fromarray(POSE))
    first = tryon(**from_pil | {"output_type": "pil"}, generator=seed()).images[0]
    assert np.array_equal(np.asarray(first), tryon(**asked(generator=seed())).images[0])


@pytest.mark.parametrize("changes, words", [
    (dict(mask_image=MASK[:16]), "mask_image is 16 x 24, image 32 x 24"),
    (dict(mask_image=~MASK & MASK), "mask_image is empty"),
    (dict(mask_image=MASK | True), "white everywhere"),
    (dict(mask_image=MASK * np.uint8(200) + 3), "grey values"),
    (dict(mask_image=PERSON), "height and width alone"),
    (dict(image=PERSON[:24], mask_image=MASK[:24]), "image is 24 x 24, not 32 : 24; crop it first"),
    (dict(image=PERSON / 255), "image: a picture is uint8"),
    (dict(image=[PERSON, PERSON]), "2 pictures and 1 masks"),
    (dict(image=[]), "image: an empty list"),
    (dict(prompt=["a", "b"]), "1 pictures and 2 prompts"),
    (dict(prompt="a blue shirt"), "prompt is given, but this model reads no words"),
    (dict(pose_image=None), "pose_image is missing"),
    (dict(garment_image=None), "garment_image is missing"),
    (dict(garment_image=[GARMENT] * 2), "1 pictures and 2 of garment_image"),
    (dict(sketch_image=POSE), "sketch_image is given, but this model looks at pose_image, garment_image"),
    (dict(output_type="pt"), "output_type is 'pt'"),
])
def test_what_cannot_be_used_is_refused_before_anything_is_sampled(tryon, changes, words, monkeypatch):
    monkeypatch.setattr(tryon.denoiser, "forward", None)
    with pytest.raises(ValueError, match=words):
        tryon(**asked(**changes))


def test_an_empty_sketch_is_refused():
    with pytest.raises(ValueError, match="sketch_image is empty: wanted are dark lines"):
        pipeline(DESIGN)(**asked(garment_image=None, sketch_image=np.full_like(POSE, 255)))


def test_a_prompt_without_room_is_refused():
    with pytest.raises(ValueError, match="the text encoder reads 77"):
        pipeline(Wiring())(**asked(garment_image=None, prompt="blue " * 90))


def test_a_mask_of_ones_and_of_255_is_the_same_mask():
    assert np.array_equal(opened_mask(MASK * np.uint8(255)), opened_mask(MASK.astype(int)))


def test_a_callback_sees_every_step_and_may_change_latents(tryon):
    seen = []

    def still(pipe, step, time, kept):
        seen.append((step, int(time), tuple(kept["latents"].shape)))
        return {"latents": torch.zeros_like(kept["latents"])}
    changed = tryon(**asked(generator=seed(), callback_on_step_end=still, paste_back=False)).images[0]
    assert [step for step, *_ in seen] == [0, 1, 2] and seen[0][2] == (1, 4, 4, 3)
    with torch.no_grad():
        nothing = tryon.vae.decode(torch.zeros(1, 4, 4, 3)).sample
    assert np.abs((nothing[0].clamp(-1, 1).permute(1, 2, 0).numpy() + 1) * 127.5 - changed).max() <= 1


def test_a_full_device_is_named_with_what_to_lower(tryon, monkeypatch):
    def full(*_): raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(tryon.denoiser, "forward", full)
    with pytest.raises(MemoryError, match="1 pictures of 32 x 24 do not fit .* pass fewer at once"):
        tryon(**asked())


@pytest.mark.parametrize("wiring", [TRYON, DESIGN, Wiring(), Wiring(("image",), trained=("unet",))])
def test_a_stored_pipeline_paints_the_same(wiring, tmp_path):
    pipe = pipeline(wiring)
    given = {"pose": POSE, "garment": GARMENT, "sketch": GARMENT}
    arguments = {f"{name}_image": given[name] if name in pipe.wanted else None for name in given}
    arguments["prompt"] = "a blue shirt" if "text" in wiring.context else ""
    before = pipe(**asked(**arguments, generator=seed())).images[0]
    pipe.save_pretrained(tmp_path)
    again = UniFashionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    after = again(**asked(**arguments, generator=seed())).images[0]
    assert np.abs(after.astype(int) - before).max() <= 2
    assert again.denoiser.wiring == wiring and again.wanted == pipe.wanted


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model_index.json"):
        UniFashionPipeline.from_pretrained(tmp_path)
    for index in ({"_class_name": "OtherPipeline"},
                  {"_class_name": "UniFashionPipeline", "vae": "PatchAutoencoder", "scheduler": "os"}):
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="not one of UniFashionPipeline"):
            UniFashionPipeline.from_pretrained(tmp_path)


def test_the_same_code_runs_the_published_layouts_end_to_end(tmp_path):
    write_generator(tmp_path / "sd", "StableDiffusionPipeline", 4)
    write_generator(tmp_path / "pbe", "PaintByExamplePipeline", 9)
    own = open_stable_diffusion(tmp_path / "sd", tmp_path / "pbe")
    encoder, qformer = readers()
    denoiser = new_denoiser(own.inpainter, Wiring(("text", "queries"), "garment", blind=2), 0, qformer)
    assert denoiser.unet.config.in_channels == 13
    assert len(denoiser.attend) == 2 * len(denoiser.unet.up_blocks) - 2
    order = denoiser.unet.conv_in.weight[:, :9]
    assert torch.equal(order, own.inpainter.unet.conv_in.weight)  # latents, masked, mask: already the paper's
    way = sampler("plms", denoiser.schedule)
    pipe = UniFashionPipeline(own.vae, denoiser.eval(), way, own.tokenizer, WORDS, encoder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.size == (512, 384)
    big = {name: np.kron(given, np.ones((16, 16, 1), np.uint8)) for name, given in
           {"image": PERSON, "garment_image": GARMENT, "pose_image": POSE}.items()}
    mask = np.kron(MASK, np.ones((16, 16), bool))
    told = pipe(**asked(**big, mask_image=mask, prompt="a b", num_inference_steps=2)).images[0]
    assert told.shape == (512, 384, 3) and np.array_equal(told[~mask], big["image"][~mask])
    pipe.save_pretrained(tmp_path / "own")
    again = UniFashionPipeline.from_pretrained(tmp_path / "own")
    assert again.qformer_tokenizer.get_vocab_size() == WORDS.get_vocab_size()
    assert type(again.vae).__name__ == "AutoencoderKL"


def test_a_u_net_of_other_channels_is_refused_by_name(tmp_path):
    write_generator(tmp_path / "wide", "StableDiffusionPipeline", 13)
    with pytest.raises(ValueError, match="wide/unet takes 13 channels .* wanted are 4 or 9"):
        open_stable_diffusion(tmp_path / "wide")


@pytest.mark.parametrize("key, value, known", [
    ("beta_schedule", "linear", "'scaled_linear'"), ("beta_end", 0.02, "0.012"),
    ("prediction_type", "sample", "'epsilon'"), ("rescale_betas_zero_snr", True, "False"),
    ("trained_betas", [0.1, 0.2], "None")])
def test_noise_that_is_no_stable_diffusions_is_refused_by_name(tmp_path, key, value, known):
    write_generator(tmp_path / "odd", "StableDiffusionPipeline", 4)
    assert open_stable_diffusion(tmp_path / "odd").inpainter.schedule.config.beta_end == 0.012
    path = tmp_path / "odd" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=f"odd/.*scheduler_config.json: {key} is .*; known is {known}"):
        open_stable_diffusion(tmp_path / "odd")


def test_an_answer_with_the_velocity_is_taken_as_one(tmp_path):
    write_generator(tmp_path / "own", "StableDiffusionPipeline", 4)
    path = tmp_path / "own" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    schedule = open_stable_diffusion(tmp_path / "own").inpainter.schedule
    assert schedule.config.prediction_type == "v_prediction"
