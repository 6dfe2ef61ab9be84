"""FashionRAG: found in its category or given by hand, painted inside the mask, stored with its database."""

import json
from copy import deepcopy
from threading import Lock
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.app import main
from unifashion.demo_models import BookModels
from unifashion.ground.core import Foundations, stream
from unifashion.models.autoencoder import PatchAutoencoder
from unifashion.models.checkpoints import seeded
from unifashion.models.encoders import ImageEncoder, dual_encoder, tower_tokens
from unifashion.models.foundations import train_tokenizer
from unifashion.models.latents import sampler, schedule_facts
from unifashion.models.retriever import frozen_retriever, retrieving_encoder
from unifashion.models.stable_diffusion import open_stable_diffusion
from unifashion.models.stand_ins import write_generator
from unifashion.models.unet import new_inpainter
from unifashion.people.scenes import keypoints, render, sample_scene
from unifashion.rag.model import new_editor, posed
from unifashion.rag.pipeline import FashionRAG, GarmentDatabase, pose_of
from unifashion.shop.keypoints import to_vitonhd
from unifashion.unified.own_fittings import OwnPerson
from unifashion.wardrobe.sampling import sample_garment

WORDS = train_tokenizer(["a blue striped shirt with short sleeves"] * 3, 90)
RNG = np.random.default_rng(0)
PERSON = RNG.integers(0, 256, (32, 24, 3)).astype(np.uint8)
MASK = np.zeros((32, 24), bool)
MASK[8:24, 6:18] = True
SHOP = {name: RNG.integers(0, 256, (40, 30, 3)).astype(np.uint8) for name in "abcd"}
GROUPS = {"a": "upper_body", "b": "upper_body", "c": "dresses", "d": "upper_body"}


@pytest.fixture(scope="module")
def parts():
    with seeded(0, "pipeline test"):
        sizes = Foundations(patch=8, width=16, layers=1, heads=2, text_layers=1)
        tower = dual_encoder(sizes, 32, 24, vocabulary=8).visual
        vae = PatchAutoencoder(4, (16, 12, 8), 1).eval()
    encoder = ImageEncoder(tower, tower_tokens, (32, 24), 16, (0.5,) * 3, (0.5,) * 3, "tiny encoder")
    retriever = frozen_retriever(retrieving_encoder(90, 32, 16), encoder, WORDS, "tiny text side")
    base = new_inpainter(90, 4, (4, 3), (16, 16, 24), 32, 1)
    editor = posed(new_editor(base, 16, seed=0)).eval()
    torch.nn.init.normal_(editor.unet.conv_in.weight, std=0.1)
    return SimpleNamespace(vae=vae, encoder=encoder, retriever=retriever, editor=editor)


@pytest.fixture
def pipe(parts):
    database = GarmentDatabase.build(parts.retriever, parts.encoder, SHOP, GROUPS)
    way = sampler("dpm++", parts.editor.schedule)
    pipe = FashionRAG(parts.vae, parts.editor, way, WORDS, parts.encoder, database)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def asked(**more):
    return dict(image=PERSON, mask_image=MASK, prompt="a blue shirt", num_inference_steps=3, output_type="np",
                generator=torch.Generator().manual_seed(1)) | more


def test_found_in_the_category_and_said_in_the_prompt(pipe):
    told = pipe(**asked(category="upper_body", num_retrieved=2))
    scores = [hit.score for hit in told.retrieved[0]]
    assert {hit.name for hit in told.retrieved[0]} < {"a", "b", "d"}
    assert scores == sorted(scores, reverse=True)
    assert told.prompts == ["a blue shirt [garment] [garment]"]
    assert np.array_equal(told.images[0][~MASK], PERSON[~MASK])
    assert not np.array_equal(told.images[0][MASK], PERSON[MASK])


def test_pasting_back_can_be_left_out(pipe):
    bare = pipe(**asked(num_retrieved=0, paste_back=False)).images[0]
    assert not np.array_equal(bare[~MASK], PERSON[~MASK])


def test_garments_by_hand_are_as_good_as_found_ones(pipe):
    found = pipe(**asked(num_retrieved=2))
    given = pipe(**asked(garment_images=[SHOP[hit.name] for hit in found.retrieved[0]]))
    assert given.retrieved == [[]] and given.prompts == found.prompts
    assert np.abs(given.images[0].astype(int) - found.images[0]).max() <= 1


def test_the_page_edits_with_those_that_are_left(pipe):
    page = BookModels.__new__(BookModels)  # its editor is this
    page._editor = pipe
    page.lock = Lock()
    page.catalogue = SimpleNamespace(pictures=SimpleNamespace(texts={"a": "a shirt"}))
    found = page.look_up("a blue shirt", 3)
    assert [hit.text for hit in found if hit.name == "a"] in ([], ["a shirt"]) and len(found) == 3
    own, steps = OwnPerson(PERSON, MASK, PERSON, np.zeros((18, 3))), []
    how = dict(steps=3, guidance=3.0, seed=1, told=lambda done, of_all: steps.append(done))
    made = [np.asarray(page.edit(own, "a blue shirt", [SHOP[name] for name in names], **how))
            for names in ("ab", "b", "")]
    assert steps == [1, 2, 3] * 3
    assert np.array_equal(made[2], pipe(**asked(num_retrieved=0, pose_image=own.keypoints)).images[0])
    assert not np.array_equal(made[0], made[1]) and not np.array_equal(made[1], made[2])


def test_garments_pose_and_text_change_the_picture(pipe):
    points = np.zeros((18, 3))
    points[:, 2], points[:, :2] = 1, np.linspace(0.1, 0.9, 36).reshape(18, 2)
    plain = pipe(**asked(num_retrieved=0)).images[0]
    for more in ({"num_retrieved": 1}, {"pose_image": points}, {"prompt": "striped sleeves"}):
        assert not np.array_equal(pipe(**asked(**{"num_retrieved": 0} | more)).images[0], plain)


def test_several_persons_each_as_alone(pipe):
    both = pipe(**asked(image=[PERSON, PERSON[::-1]], mask_image=[MASK, MASK], prompt=["a shirt", "blue"],
                        category=["upper_body", "dresses"], num_retrieved=1,
                        generator=[torch.Generator().manual_seed(k) for k in (1, 2)]))
    alone = pipe(**asked(image=PERSON[::-1], prompt="blue", category="dresses", num_retrieved=1,
                         generator=torch.Generator().manual_seed(2)))
    assert [own[0].name for own in both.retrieved][1] == "c"
    assert np.abs(both.images[1].astype(int) - alone.images[0]).max() <= 1


def test_fewer_than_asked_are_taken_as_they_are(pipe):
    told = pipe(**asked(category="dresses", num_retrieved=3))
    assert len(told.retrieved[0]) == 1 and told.prompts == ["a blue shirt [garment]"]
    none = pipe(**asked(num_retrieved=3, least=2.))
    assert none.retrieved == [[]] and none.prompts == ["a blue shirt"]


def test_an_excluded_garment_is_not_looked_up(pipe):
    first = pipe(**asked(num_retrieved=1)).retrieved[0][0].name
    others = pipe(**asked(num_retrieved=3, excluded=[first, "nobody"])).retrieved[0]
    assert others and first not in [hit.name for hit in others]


@pytest.mark.parametrize("more, words", [
    ({"category": "hats"}, "the index has no 'hats'"),
    ({"prompt": ["a", "b"]}, "1 pictures and 2 prompts"),
    ({"prompt": "blue " * 80}, "the text encoder has 77 places"),
    ({"pose_image": np.zeros((4, 3))}, r"wanted are keypoints \(1, 18, 3\)"),
    ({"garment_images": [np.zeros((4, 3))]}, "garment_images"),
    ({"mask_image": MASK.astype(np.uint8) * 100}, "has grey values"),
    (dict(category=["upper_body", "dresses"]), "1 prompts, and 2 categories"),
    (dict(output_type="pt"), "output_type is 'pt'"),
    (dict(excluded="a"), "excluded: wanted are ids, not the text 'a'"),
])
def test_refusals(more, words, pipe):
    with pytest.raises(ValueError, match=words):
        pipe(**asked(**more))


def test_without_a_database_nothing_is_looked_up(pipe):
    pipe.database = None
    with pytest.raises(ValueError, match="nothing to look up"):
        pipe(**asked())
    assert pipe(**asked(num_retrieved=0)).retrieved == [[]]


def test_stored_with_its_database_and_loaded(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "rag")
    again = FashionRAG.from_pretrained(tmp_path / "rag")
    again.set_progress_bar_config(disable=True)
    first, second = (own(**asked(num_retrieved=2)) for own in (pipe, again))
    assert [hit.name for hit in first.retrieved[0]] == [hit.name for hit in second.retrieved[0]]
    assert np.abs(first.images[0].astype(int) - second.images[0]).max() <= 1
    assert again.database.search.fingerprint == pipe.database.search.fingerprint
    (tmp_path / "rag" / "database" / "tokens.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        FashionRAG.from_pretrained(tmp_path / "rag")
    pipe.database = None
    pipe.save_pretrained(tmp_path / "rag")
    assert FashionRAG.from_pretrained(tmp_path / "rag").database is None  # not the one stored before


def test_all_networks_move_the_retrievers_among_them(pipe):
    finder = deepcopy(pipe.database.search.retriever)
    parts = (deepcopy(own) for own in (pipe.vae, pipe.editor, pipe.scheduler, WORDS, pipe.image_encoder))
    moved = FashionRAG(*parts)
    moved.database = SimpleNamespace(search=SimpleNamespace(retriever=finder))
    moved.to("meta")
    assert {moved.device.type, moved.image_encoder.mean.device.type, finder.device.type} == {"meta"}


def test_a_pipeline_that_names_no_schedule_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "rag")
    index = json.loads((tmp_path / "rag" / "model_index.json").read_text())
    assert index.pop("schedule") == schedule_facts(pipe.editor.schedule)
    (tmp_path / "rag" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="rag/model_index.json names no schedule"):
        FashionRAG.from_pretrained(tmp_path / "rag")


def test_a_folder_of_another_pipeline_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model_index.json"):
        FashionRAG.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "UniFashionPipeline"}')
    with pytest.raises(ValueError, match="is not one of FashionRAG"):
        FashionRAG.from_pretrained(tmp_path)


def test_keypoints_or_their_maps():
    maps = np.random.default_rng(0).random((18, 4, 3)).astype(np.float32)
    assert np.array_equal(pose_of(maps, 1, (4, 3))[0], maps)
    assert not pose_of(None, 2, (4, 3)).any() and pose_of(None, 2, (4, 3)).shape == (2, 18, 4, 3)


@pytest.fixture
def mine(pipe, tmp_path):
    "A photograph, its keypoints, a shop with one torn picture, and a stored pipeline."
    rng = stream(3, "mine")
    scene = sample_scene(rng, sample_garment(rng, "t-shirt"), frame="half")
    Image.fromarray(render(scene, 96, 72, ("person",))["person"]).save(tmp_path / "me.png")
    (tmp_path / "points.json").write_text(json.dumps(to_vitonhd(keypoints(scene), 96, 72)))
    (tmp_path / "shop").mkdir()
    for name, picture in SHOP.items():
        Image.fromarray(picture).save(tmp_path / "shop" / f"{name}.png")
    (tmp_path / "shop" / "torn.png").write_bytes(b"no picture")
    pipe.save_pretrained(tmp_path / "rag")
    return tmp_path


def edit(mine, *more):
    return main(["edit", f"{mine}/me.png", "--keypoints", f"{mine}/points.json", "--prompt", "a blue shirt",
                 "--model", f"{mine}/rag", "--out", f"{mine}/out.png", "--steps", "2", *more])


def test_the_command_looks_up_in_a_folder(mine, capsys):
    assert not edit(mine, "--catalogue", f"{mine}/shop", "--garments", "2")
    told = capsys.readouterr()
    lines = told.out.strip().splitlines()[-4:]
    assert all(line.split()[1] in {"a.png", "b.png", "c.png", "d.png"} for line in lines[:2])
    assert lines[2:] == ["a blue shirt [garment] [garment]", f"{mine}/out.png"]
    assert "torn.png" in told.out + told.err
    assert Image.open(mine / "out.png").size == (24, 32)


def test_the_command_looks_up_in_its_own_database_and_says_what_is_wrong(mine, capsys):
    assert not edit(mine, "--garments", "3")
    lines = capsys.readouterr().out.strip().splitlines()
    assert {line.split()[1] for line in lines[:3]} == {"a", "b", "d"}  # upper garments
    assert not edit(mine, "--garments", "3", "--without", "b")
    lines = capsys.readouterr().out.strip().splitlines()
    assert {line.split()[1] for line in lines[:2]} == {"a", "d"}
    assert lines[2] == "2 of 3 garments: no more were found or near enough"
    assert not edit(mine, "--least", "1.5")
    assert capsys.readouterr().out.startswith("0 of 3 garments: no more")
    assert edit(mine, "--without", "nobody") == 1
    assert "--without nobody: there is no such garment to look up" in capsys.readouterr().err
    assert edit(mine, "--catalogue", f"{mine}/nothing") == 1
    assert "no such folder" in capsys.readouterr().err


def test_stable_diffusions_inpainting_runs_the_same_code_end_to_end(parts, tmp_path):
    write_generator(tmp_path / "sd2", "StableDiffusionInpaintPipeline", 9)
    own = open_stable_diffusion(tmp_path / "sd2")
    editor = posed(new_editor(own.inpainter, 16, seed=0)).eval()
    assert editor.unet.config.in_channels == 27  # latents 4, mask 1, masked 4, keypoints 18
    pipe = FashionRAG(own.vae, editor, sampler("ddim", editor.schedule), own.tokenizer, parts.encoder)
    pipe.set_progress_bar_config(disable=True)
    big, mask = np.kron(PERSON, np.ones((16, 16, 1), np.uint8)), np.kron(MASK, np.ones((16, 16), bool))
    words = asked(image=big, mask_image=mask, prompt="a b", garment_images=[SHOP["a"], SHOP["b"]],
                  num_inference_steps=2)
    told = pipe(**words)
    assert told.prompts == ["a b [garment] [garment]"] and told.images[0].shape == (512, 384, 3)
    assert np.array_equal(told.images[0][~mask], big[~mask])
    pipe.save_pretrained(tmp_path / "own")
    again = FashionRAG.from_pretrained(tmp_path / "own")
    again.set_progress_bar_config(disable=True)
    words["generator"] = torch.Generator().manual_seed(1)
    assert np.abs(again(**words).images[0].astype(int) - told.images[0]).max() <= 1
