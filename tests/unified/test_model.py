"""One model for every task: gathered, stored, loaded part by part, asked, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import LANGUAGE, picture, tiny_qformer, write_parts, write_shop

from unifashion.app import main
from unifashion.evidence.generation_baselines import ALIGNED
from unifashion.ground.core import Language, digest, load_profile
from unifashion.ground.files import load_arrays
from unifashion.models.autoencoder import PatchAutoencoder
from unifashion.models.checkpoints import seeded
from unifashion.models.foundations import save_foundation
from unifashion.models.language_models import open_writer
from unifashion.models.unet import new_inpainter
from unifashion.unified import model as m
from unifashion.unified import trained_models
from unifashion.unified import trained_parts as t
from unifashion.unified.compose import Composer, save_composer
from unifashion.unified.composed_systems import BOTH_CAPTIONS, OURS, folder_of
from unifashion.unified.denoising import save_denoiser
from unifashion.unified.diffusion import Wiring, new_denoiser
from unifashion.unified.language import new_captioner, save_captioner
from unifashion.unified.lazy_parts import weight
from unifashion.unified.shards import embed_shard, open_plan

CHANNELS = 4


def write_generators(folder, vocab):
    "An autoencoder and an inpainting model that have seen nothing."
    with seeded(0, "generators"):
        vae = PatchAutoencoder(CHANNELS, (16, 12, 8), 1)
    sizes = {"latent_channels": CHANNELS, "widths": [16, 12, 8], "layers": 1}
    save_foundation(folder / "autoencoder", vae.state_dict(), sizes)
    how = {"vocabulary": vocab, "latent_channels": CHANNELS, "size": [8, 6], "widths": [16, 16, 24],
           "text_width": 32, "text_layers": 1}
    base = new_inpainter(**how)
    save_foundation(folder / "inpainter", base.state_dict(), how)
    return base


def write_runs(home, parts, generators):
    "What the reports of `PARTS` leave, of a few thousand weights."
    vocab = json.loads((parts / "llm" / "card.json").read_text())["settings"]["vocab"]
    base = write_generators(generators, vocab)
    runs = {report: home / report / "seed=0" for report, _ in t.PARTS.values()}
    qformer = tiny_qformer(vocab, 2)
    qformer.save_pretrained(runs["train_pretrain"] / "qformer")

    def captioner():
        return new_captioner(open_writer(LANGUAGE, parts), Language(rank=2, max_words=6), (8, 32),
                             styles=("short", "professional"))
    save_captioner(captioner(), runs["train_language"] / "captioner")
    taught = Composer(tiny_qformer(vocab, 5), captioner())
    save_composer(taught, runs["train_compose"] / "systems" / folder_of(OURS))
    denoiser = new_denoiser(base, Wiring(("queries",), channels=(), trained=()), 0, qformer)
    report, name = t.PARTS["aligned"]  # `train_align` writes a folder for each of `ALIGNED`
    assert name in ALIGNED
    save_denoiser(denoiser, runs[report] / name)
    for report, run in runs.items():
        run.mkdir(parents=True, exist_ok=True)
        (run / "run.json").write_text(json.dumps({
            "report": report, "parameters": {"seed": 0, "full": False}, "commit": "0123456789",
            "started": "2024-10-12T00:00:00", "seconds": 90, "outputs": {"of": report},
            "inputs": {}, "data": {}}))
    return runs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    write_parts(folder / "parts")
    write_runs(folder / "runs", folder / "parts", folder / "generators")
    write_shop(folder / "shop")
    return folder


@pytest.fixture(scope="module")
def own(home):
    "All that was trained, as `gathered` finds it."
    needs = t.needs_of(load_profile("smoke"))
    runs = {report: home / "runs" / report / "seed=0" for report, _ in t.PARTS.values()}
    places = t.places_of(runs)
    made_by = {part: t.facts_of(runs[t.PARTS[part][0]]) for part in places}
    return t.Gathered(needs, places, home / "parts", home / "generators", made_by)


@pytest.fixture
def model(own, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path / "cache"))
    return m.UniFashion(own)


def test_the_system_taught_by_both_is_taken_before_the_other(tmp_path):
    assert t.composer_of(tmp_path) is None
    for name in (OURS, BOTH_CAPTIONS):
        (tmp_path / "systems" / folder_of(name)).mkdir(parents=True)
        assert t.composer_of(tmp_path).name == folder_of(name)


def test_parts_are_of_one_scale_and_seed_the_scale_with_more_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(t, "repo_root", lambda: tmp_path)

    def done(scale, report, seed=0):
        folder = tmp_path / "outputs" / "runs" / "mini" / scale / report / f"seed={seed}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        return folder
    assert t.runs_of_one_scale("mini") == {}
    done("core", "train_language")
    assert t.runs_of_one_scale("mini") == {}  # without phase 1 there is no model
    core = {report: done("core", report, 1) for report in ("train_pretrain", "train_language")}
    assert t.runs_of_one_scale("mini") == core  # of seed 1, as phase 1 is
    done("full", "train_pretrain")
    assert t.runs_of_one_scale("mini") == core
    full = done("full", "train_language")
    assert t.runs_of_one_scale("mini")["train_language"] == full  # of equals the full one


def test_a_part_that_read_another_qformer_is_refused(tmp_path):
    first, second = (tmp_path / report / "seed=0" for report in ("train_pretrain", "train_language"))
    for folder in (first, second):
        folder.mkdir(parents=True)
    (first / "run.json").write_text(json.dumps({"outputs": {"qformer": "now"}, "inputs": {}}))
    runs = {"train_pretrain": first, "train_language": second}
    for read, fine in (({"qformer": "now"}, True), ({"qformer": "before"}, False)):
        told = {"train_pretrain seed=0": {"outputs": digest(read)}}
        (second / "run.json").write_text(json.dumps({"outputs": {}, "inputs": told}))
        if fine:
            t.check_together(runs, "mini")
        else:
            with pytest.raises(ValueError, match="another train_pretrain .*ONLY=train_language"):
                t.check_together(runs, "mini")


def test_runs_are_gathered_with_what_is_known_of_them(home):
    runs = {report: home / "runs" / report / "seed=0" for report, _ in t.PARTS.values()}
    found = t.gathered(load_profile("mini"), runs)
    assert list(found.places) == ["qformer", "captioner", "composer", "aligned"]
    assert found.made_by["composer"] == {"report": "train_compose", "full": False, "seed": 0, "minutes": 2,
                                         "commit": "0123456", "day": "2024-10-12"}


def test_an_adapter_of_phase_two_is_whole_or_refused(own, tmp_path):
    stored = t.read_model(t.write_model(own, tmp_path / "stored"))
    file = stored.places["composer"] / "adapters.safetensors"
    kept = load_file(file)
    lost = sorted(kept)[0]
    save_file({name: value for name, value in kept.items() if name != lost}, file)
    with pytest.raises(ValueError, match="in one of adapter and Captioner, and not in both"):
        m.UniFashion(stored).listener


def test_a_profile_without_a_qformer_names_the_command():
    with pytest.raises(FileNotFoundError, match="make reproduce ONLY=train_pretrain PROFILE=open"):
        t.gathered(load_profile("open"), {})


def test_searching_loads_neither_the_language_model_nor_a_painter(model, home):
    shelf = model.open_catalogue(home / "shop")
    model.retrieve("a red dress", shelf)
    assert list(model.loaded) == ["retriever"]
    light = weight(model.loaded.values())
    model.compose(picture("red"), "is blue", shelf)
    assert sorted(model.loaded) == ["composer", "retriever"]
    model.caption([picture("red")])
    model.generate("a red dress", steps=2)
    assert {"captioner", "painter"} < set(model.loaded) and weight(model.loaded.values()) > 2 * light


def test_the_encoder_is_held_once_by_both_phases(model):
    assert model.composer.encoder is model.retriever.encoder
    assert model.composer.identity != model.retriever.identity


def test_composed_queries_and_their_answers_belong_to_phase_two(model, home):
    shelf = model.open_catalogue(home / "shop")
    asked = model.embed_query([picture("red")], ["is blue"])
    names = shelf.composed.names
    kept = np.stack([shelf.composed.encoded[name].queries for name in names]).astype(np.float32)
    best = (kept @ asked[0]).max(1)
    hits = model.compose(picture("red"), "is blue", shelf, k=2)
    assert [hit.name for hit in hits] == [names[i] for i in np.argsort(-best)[:2]]
    assert not np.allclose(kept, np.stack([shelf.pictures.encoded[name].queries for name in names]), atol=0.1)


def test_the_command_finds_what_the_model_finds(model, home, tmp_path, capsys):
    model.save_pretrained(tmp_path / "kept")
    photo = tmp_path / "red.png"
    Image.fromarray(picture("red")).save(photo)
    hits = model.compose(photo, "is blue", model.open_catalogue(home / "shop"), k=2)
    where = ["--catalogue", str(home / "shop"), "--model", str(tmp_path / "kept"), "--k", "2"]
    assert main(["compose", str(photo), "is blue", *where]) == 0
    lines = capsys.readouterr().out.strip().splitlines()[-2:]
    assert [line.split()[2] for line in lines] == [hit.name for hit in hits]
    assert main(["compose", str(photo), " ", *where]) == 1
    assert "the query is empty" in capsys.readouterr().err


@pytest.mark.parametrize("words, said", [
    (["gone.jpg", "is blue"], "gone.jpg"),
    (["{photo}", "is blue"], "composer is not trained yet"),
    (["{photo}", "is blue", "--k", "0"], "from 1; here: 0"),
    (["{photo}", "is blue", "--model", "nobody"], "no such folder"),
])
def test_the_command_says_what_is_wrong(words, said, home, tmp_path, capsys, monkeypatch):
    nothing = t.gathered(load_profile("mini"), {})
    monkeypatch.setattr(m, "gathered", lambda profile: nothing)
    photo = tmp_path / "red.png"
    Image.fromarray(picture("red")).save(photo)
    words = [word.replace("{photo}", str(photo)) for word in words]
    assert main(["compose", *words, "--catalogue", str(home / "shop")]) == 1
    assert said in capsys.readouterr().err


def in_shards(part, folder):
    "Embed a folder in two shards, as `unifashion embed` does."
    plan = open_plan(part, folder, 2)
    for number in range(plan.shards):
        embed_shard(part, plan, number)


def counted(monkeypatch, part):
    "How many pictures a part is given from now on."
    given, encode = [], part.of_pictures

    def of_pictures(pictures):
        given.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(part, "of_pictures", of_pictures)
    return given


def test_a_folder_in_shards_of_both_phases_is_read_and_not_encoded(model, home, monkeypatch):
    folder = home / "shop"

    def answers():
        shelf = model.open_catalogue(folder)
        hits = model.retrieve("a red dress", shelf) + model.compose(picture("red"), "is blue", shelf)
        return [(hit.name, pytest.approx(hit.score, abs=1e-4), hit.text) for hit in hits]

    whole = answers()
    for part in (model.retriever, model.composer):
        in_shards(part, folder)
    given = [counted(monkeypatch, part) for part in (model.retriever, model.composer)]
    assert answers() == whole and len(whole) == 8 and given == [[], []]
    shelf = model.open_catalogue(folder)
    assert shelf.composed.plan.identity == model.composer.identity != shelf.pictures.plan.identity


def test_shards_of_phase_one_alone_do_not_answer_composed_queries(model, home, monkeypatch):
    in_shards(model.retriever, home / "shop")
    given = counted(monkeypatch, model.composer)
    shelf = model.open_catalogue(home / "shop")
    wanted = f"2 shards by another model .* --shards 2 --model {model.own.places['composer']}, and"
    with pytest.raises(ValueError, match=wanted):
        model.compose(picture("red"), "is blue", shelf)
    assert given == []


def test_the_folder_that_is_named_holds_the_same_model(model, own, monkeypatch):
    monkeypatch.setattr(trained_models, "parts_for", lambda profile, run: own.foundations)
    for part in (model.retriever, model.composer):
        assert trained_models.open_model("smoke", part.source).identity == part.identity


def test_a_picture_finds_itself_as_a_file_an_array_and_a_pil_picture(model, home):
    shelf = model.open_catalogue(home / "shop")
    file = home / "shop" / "images" / "blue.png"
    pixels = np.asarray(Image.open(file).convert("RGB"))
    queries = file, str(file), pixels, Image.fromarray(pixels)
    answers = [model.retrieve(query, shelf, k=3) for query in queries]
    assert all([hit.name for hit in hits] == [hit.name for hit in answers[0]] for hits in answers)
    assert answers[0][0].name == "images/blue.png"


def test_texts_are_ranked_by_the_best_of_the_queries(model):
    texts = ["a red dress", "a blue dress", "a green dress with long sleeves"]
    best = (model.embed_image([picture("red")])[0] @ model.embed_text(texts).T).max(0)
    hits = model.retrieve_texts(picture("red"), texts, k=5)
    assert [hit.text for hit in hits] == [texts[i] for i in np.argsort(-best)]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(best)[::-1], rtol=1e-5)


def test_a_stored_model_answers_with_the_same_bytes_in_another_process(model, home, tmp_path):
    stored = model.save_pretrained(tmp_path / "stored")
    ask = ("import sys, numpy as np; from unifashion.unified.model import UniFashion; "
           "from unifashion.ground.files import save_arrays; "
           "model = UniFashion.from_pretrained(sys.argv[1]); "
           "look = np.full((64, 48, 3), 7, np.uint8); look[10:40, 8:30] = (200, 30, 30); "
           "save_arrays(sys.argv[2], {'image': model.embed_image([look]), 'query': model.embed_query([look], "
           "['is blue']), 'text': model.embed_text(['a red dress']), "
           "'painted': np.array(model.generate('a red dress', steps=2)), "
           "'changed': np.array(model.generate('is blue', reference=look, steps=2)), "
           "'said': np.array(model.caption([look]) + model.caption([look], texts=['is blue']))})")
    told = []
    for n in range(2):
        file = tmp_path / f"{n}.safetensors"
        subprocess.run([sys.executable, "-c", ask, str(stored), str(file)], check=True, capture_output=True)
        told.append(file.read_bytes())
    assert told[0] == told[1]
    look = np.full((64, 48, 3), 7, np.uint8)
    look[10:40, 8:30] = (200, 30, 30)
    kept = load_arrays(tmp_path / "0.safetensors")
    assert np.array_equal(kept["image"], model.embed_image([look]))  # as from the runs themselves
    assert np.array_equal(kept["changed"], np.array(model.generate("is blue", reference=look, steps=2)))


def test_the_card_names_runs_and_tasks_and_weights_are_copied_byte_for_byte(own, tmp_path):
    folder = t.write_model(own, tmp_path / "stored")
    card = (folder / "README.md").read_text()
    assert "| captioner | train_language, core, seed 0 | `0123456` | 2024-10-12 | 2 min |" in card
    tasks = "retrieval, caption, composed retrieval, composed caption, text to image, composed image"
    assert f"Tasks: {tasks}.\n" in card and "48 x 64 pixels" in card
    for part, place in own.places.items():
        for file in place.rglob("*.safetensors"):
            assert (folder / part / file.relative_to(place)).read_bytes() == file.read_bytes()
    with pytest.raises(FileExistsError, match="is not empty"):
        t.write_model(own, folder)


def respelt(folder, **changes):
    "An index with other values."
    file = folder / t.INDEX
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_model_that_is_stored_again_keeps_its_card_and_a_missing_part_leaves_nothing(own, tmp_path):
    first = t.write_model(own, tmp_path / "first")
    again = t.write_model(t.read_model(first), tmp_path / "again")
    assert (again / "README.md").read_bytes() == (first / "README.md").read_bytes()
    shutil.rmtree(first / "foundations" / "llm")
    with pytest.raises(FileNotFoundError, match="llm is missing"):
        t.write_model(t.read_model(first), tmp_path / "third")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "first"]


@pytest.mark.parametrize("spoil, error, words", [
    (lambda folder: (folder / t.INDEX).unlink(), FileNotFoundError, "no model was stored here"),
    (lambda folder: (folder / t.INDEX).write_text("{"), t.DataError, "no index of a UniFashion model"),
    (lambda folder: (folder / t.INDEX).write_text('{"needs": {}, "parts": []}'), t.DataError, "no index"),
    (lambda folder: respelt(folder, made_by={"qformer": {"x": 1}}), t.DataError, "what made qformer"),
    (lambda folder: respelt(folder, parts=["../../etc"]), t.DataError, "there is no part '../../etc'"),
    (lambda folder: (folder / "composer").rename(folder / "gone"), FileNotFoundError, "lacks composer/"),
])
def test_a_damaged_folder_is_named(own, tmp_path, spoil, error, words):
    folder = t.write_model(own, tmp_path / "stored")
    spoil(folder)
    with pytest.raises(error, match=words):
        m.UniFashion.from_pretrained(folder)


def test_an_id_that_is_none_and_one_that_cannot_be_reached(monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such folder, and no hub id .* no-such-model"):
        m.UniFashion.from_pretrained("no-such-model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(source, allow_patterns):
        raise OSError("Repository Not Found")
    monkeypatch.setattr(m, "snapshot_download", refuse)
    with pytest.raises(ConnectionError, match="nobody/nothing: Repository Not Found"):
        m.UniFashion.from_pretrained("nobody/nothing")


def test_pushing_sends_a_stored_folder(model, monkeypatch):
    sent = {}

    class Hub:
        def create_repo(self, repo_id, private, exist_ok):
            return f"hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path):
            sent[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
    monkeypatch.setattr(m, "HfApi", Hub)
    assert model.push_to_hub("me/mine") == "hub/me/mine"
    assert {"README.md", "model_index.json", "qformer", "composer", "foundations"} <= set(sent["me/mine"])


def test_phase_two_is_read_through_its_own_adapter_and_the_language_model_is_held_once(model):
    listener = model.listener
    assert listener.llm is model.captioner.llm and listener.adapter is not model.captioner.adapter
    kept = load_file(model.own.places["composer"] / "adapters.safetensors")
    own = {name.removeprefix("captioner."): value for name, value in kept.items()}
    assert own and all(torch.equal(listener.state_dict()[name], value) for name, value in own.items())
    assert "painter" not in model.loaded and "aligned" not in model.loaded


def test_what_is_not_trained_says_how_to_train_it(model):
    person = SimpleNamespace(person=None)
    with pytest.raises(FileNotFoundError, match="train_diffusion PROFILE=smoke FULL=1"):
        model.generate(person=person, garment=picture("red"))
    assert model.tasks["design"].endswith("make reproduce ONLY=train_diffusion PROFILE=smoke")
    assert model.tasks["retrieval"] is None


@pytest.mark.parametrize("call, words", [
    (lambda model, shelf: model.retrieve("", shelf), "the query is empty"),
    (lambda model, shelf: model.retrieve("a dress", shelf, k=0), "k is the number of pictures"),
    (lambda model, shelf: model.compose(picture("red"), " ", shelf), "the query is empty"),
    (lambda model, shelf: model.compose(picture("red"), "is blue", shelf, k=0), "from 1; here: 0"),
    (lambda model, shelf: model.embed_query([picture("red")], ["is blue", "is red"]), "1 pictures and 2 ch"),
    (lambda model, shelf: model.caption([picture("red")], "flowery"), "trained on short, professional"),
    (lambda model, shelf: model.embed_image([np.zeros((64, 48))]), "picture: "),
    (lambda model, shelf: model.embed_image([]), "picture: an empty list"),
    (lambda model, shelf: model.generate("red", garment=picture("red")), "belong to no task"),
    (lambda model, shelf: model.generate(), "the text is empty"),
    (lambda model, shelf: model.generate(reference=picture("red")), "the text is empty"),
    (lambda model, shelf: model.generate("red", person=1, garment=picture("red")), "try-on reads no words"),
])
def test_what_cannot_be_asked(model, home, call, words):
    with pytest.raises(ValueError, match=words):
        call(model, model.open_catalogue(home / "shop"))


def test_k_beyond_the_catalogue_gives_all_of_it(model, home):
    assert len(model.retrieve("a red dress", model.open_catalogue(home / "shop"), k=99)) == 4
