"""One's own pictures: found, encoded once, searched by words and by pictures, kept, shown without a leak of
markup; and the trained models that do it."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_models import SMOKE, picture, tiny_qformer, write_parts, write_run, write_shop

from unifashion.data.images import fit_image
from unifashion.data.samples import DataError, Report
from unifashion.ground.core import Language
from unifashion.models.encoders import image_tokens, lite_tokens, open_image_encoder
from unifashion.models.image_metrics import whole_picture
from unifashion.models.matching import similarity_matrix
from unifashion.models.starts import open_tokenizer
from unifashion.unified import own_pictures as own
from unifashion.unified import trained_models as trained
from unifashion.unified.own_pictures import PictureSearch, open_search, picture_names, search_page


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    "Where tiny parts lie, and how many entries their tokenizer has."
    folder = tmp_path_factory.mktemp("tiny") / "parts"
    return folder, write_parts(folder).get_vocab_size()


@pytest.fixture
def model(parts):
    folder, vocab = parts
    encoder = open_image_encoder("drawn", 64, 48, folder)
    tokenizer = open_tokenizer(SMOKE.foundations, folder)
    return trained.PictureModel(encoder, tiny_qformer(vocab), tokenizer, 24, folder)


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    write_shop(folder)
    return folder


def counted(model, monkeypatch):
    "How many pictures each call of the encoder is given from now on."
    calls, encode = [], model.of_pictures

    def of_pictures(pictures):
        calls.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(model, "of_pictures", of_pictures)
    return calls


# --- a folder


def test_pictures_are_found_anywhere_and_nothing_else_is(tmp_path):
    wanted = write_shop(tmp_path)
    for name in ("notes.txt", ".hidden.jpg", "images/.thumbs/a.jpg", "images/jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    Image.fromarray(picture("red")).save(tmp_path / "LOUD.JPG", "JPEG")
    assert picture_names(tmp_path) == sorted(["LOUD.JPG", *wanted])


def test_a_folder_without_pictures_says_so(tmp_path):
    with pytest.raises(DataError, match=r"no picture in this folder: names of pictures end in \.jpg"):
        picture_names(tmp_path)
    with pytest.raises(DataError, match="gone: no such folder"):
        picture_names(tmp_path / "gone")


def test_a_table_gives_texts_and_its_faults_are_counted(shop):
    table = shop / "catalogue.csv"
    table.write_text(table.read_text() + "gone.jpg,nothing\n../shop/x.jpg,outside\n")
    report = Report("skip")
    texts = own.folder_texts(shop, picture_names(shop), report)
    assert texts["images/women/green.jpg"] == "a green dress" and len(texts) == 4
    assert report.counts == {"missing picture": 2} and "'gone.jpg' is missing" in str(report.skipped[0])
    table.write_text("image,price\nred.jpg,12\n")
    assert own.folder_texts(shop, picture_names(shop), Report("skip")) == {"images/red.jpg": ""}
    table.write_text("picture\nred.jpg\n")
    with pytest.raises(DataError, match="no column 'image'"):
        own.folder_texts(shop, picture_names(shop), Report("skip"))


# --- search


def test_a_plain_folder_needs_no_table(model, tmp_path):
    names = write_shop(tmp_path, table=False)
    search = PictureSearch.build(model, tmp_path)
    assert search.names == names and {hit.text for hit in search.search("a red dress")} == {""}


def test_scores_of_a_text_are_those_of_the_similarity_matrix(model, shop):
    search = PictureSearch.build(model, shop)
    pixels = [np.asarray(Image.open(shop / name).convert("RGB")) for name in search.names]
    fitted = np.stack([fit_image(image, 64, 48, "pad") for image in pixels])
    tokens = image_tokens(model.encoder, fitted, identity="test_own_pictures")
    matrix = similarity_matrix(model.qformer, tokens, ["a blue dress"], model.tokenizer, 24, "cpu")[:, 0]
    hits = search.search("a blue dress", 99)
    found = {hit.name: hit.score for hit in hits}
    assert [found[name] for name in search.names] == pytest.approx(matrix, abs=2e-3)
    assert [hit.score for hit in hits] == sorted(found.values(), reverse=True) and len(hits) == 4
    assert np.ptp(matrix) > 0.02  # so that the order is about something


def test_a_picture_finds_itself_first(model, shop):
    search = PictureSearch.build(model, shop)
    for name in search.names:
        first, second = search.search(shop / name, 2)
        assert first.name == name and first.score == pytest.approx(1, abs=2e-3) and second.score < 0.995


def test_a_picture_from_elsewhere_may_ask(model, shop, tmp_path):
    Image.fromarray(picture("green", 90, 40)).save(tmp_path / "asked.png")
    found = PictureSearch.build(model, shop).search(str(tmp_path / "asked.png"), 1)
    assert found[0].name == "images/women/green.jpg"


@pytest.mark.parametrize(
    "query, k, message",
    [
        ("red", 0, "from 1; here: 0"),
        (" \n", 5, "the query is empty"),
        ("gone.JPG", 5, "gone.JPG: no such picture"),
        ("素敵", 5, "the model knows no word of the query '素敵'"),
    ],
)
def test_a_query_that_says_nothing_is_refused(model, shop, query, k, message):
    with pytest.raises(ValueError, match=message):
        PictureSearch.build(model, shop).search(query, k)


def test_unreadable_pictures_are_named_and_counted(model, shop):
    (shop / "torn.jpg").write_bytes((shop / "images/red.jpg").read_bytes()[:200])
    search = PictureSearch.build(model, shop)
    assert len(search) == search.report.kept == 4 and search.report.rows == 5
    assert search.report.counts == {"unreadable picture": 1}
    assert "torn.jpg" in str(search.report.skipped[0])
    for path in (shop / "images").rglob("*.*"):
        path.write_bytes(b"")
    why = "none of its 5 pictures can be read: 5 x unreadable picture, first: .*blue.png"
    with pytest.raises(DataError, match=f"shop: {why}"):
        PictureSearch.build(model, shop)


# --- kept


def test_only_what_is_new_or_changed_is_encoded(model, shop, monkeypatch):
    calls = counted(model, monkeypatch)
    assert open_search(model, shop)[1] == 4 and open_search(model, shop)[1] == 0 and calls == [4]
    Image.fromarray(picture("red", 80, 80)).save(shop / "new.png")
    Image.fromarray(picture("yellow", 80, 80)).save(shop / "images/red.jpg")
    (shop / "images/blue.png").unlink()
    search, new = open_search(model, shop)
    assert calls == [4, 2] and new == 2 and len(search) == 4 and "images/blue.png" not in search.names
    fresh = PictureSearch.build(model, shop)
    assert [hit.name for hit in search.search("red")] == [hit.name for hit in fresh.search("red")]


def test_new_texts_are_shown_without_encoding(model, shop, monkeypatch):
    open_search(model, shop)
    (shop / "catalogue.csv").write_text("image,text\nred.jpg,crimson\n")
    calls = counted(model, monkeypatch)
    hits = {hit.name: hit.text for hit in open_search(model, shop)[0].search("red")}
    assert hits["images/red.jpg"] == "crimson" and hits["images/blue.png"] == "" and calls == []


def test_a_stopped_command_keeps_what_it_has_encoded(model, shop, monkeypatch):
    encode, calls = model.of_pictures, []

    def stopping(pictures):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(pictures))
        return encode(pictures)

    def two_at_a_time(self, _refresh=PictureSearch.refresh):
        return _refresh(self, batch=2)

    monkeypatch.setattr(PictureSearch, "refresh", two_at_a_time)
    monkeypatch.setattr(model, "of_pictures", stopping)
    with pytest.raises(KeyboardInterrupt):
        open_search(model, shop)
    monkeypatch.setattr(model, "of_pictures", encode)
    assert calls == [2] and open_search(model, shop)[1] == 2


def test_pictures_are_compared_by_the_encoders_own_vector_and_words_by_the_queries(model, shop):
    search = PictureSearch.build(model, shop)
    found = {hit.name: hit.score for hit in search.search(shop / "images/red.jpg")}
    looks = {name: kept.look.astype("float32") for name, kept in search.encoded.items()}
    assert all(np.linalg.norm(look) == pytest.approx(1, abs=2e-3) for look in looks.values())
    for name, score in found.items():
        assert score == pytest.approx(float(looks[name] @ looks["images/red.jpg"]), abs=2e-3)
    word = model.of_text("red")[0].numpy()
    best = max(float((kept.queries.astype("float32") @ word).max()) for kept in search.encoded.values())
    assert search.search("red")[0].score == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("tokens, expected", [(lite_tokens, (1, 1)), (None, (1, 0))])
def test_a_whole_picture_is_its_class_token_or_the_mean_of_its_cells(tokens, expected):
    encoder = SimpleNamespace(tokens=tokens)
    whole = whole_picture(encoder, torch.tensor([[[2., 0.], [0., 2.]]]))
    assert torch.allclose(whole[0], F.normalize(torch.tensor(expected).float(), dim=0))


def test_saved_and_loaded_it_is_the_same(model, shop, tmp_path):
    search = PictureSearch.build(model, shop)
    search.save(tmp_path / "kept")
    loaded = PictureSearch.load(tmp_path / "kept", model)
    assert loaded.search("a red dress", 4) == search.search("a red dress", 4) and loaded.refresh() == 0
    card = json.loads((tmp_path / "kept/pictures.json").read_text())
    assert card["pictures"] == search.names and card["model"] == model.identity and card["left out"] == []


def test_another_models_vectors_are_refused(model, parts, shop, tmp_path):
    PictureSearch.build(model, shop).save(tmp_path / "kept")
    other = trained.PictureModel(model.encoder, tiny_qformer(parts[1], seed=3), model.tokenizer, 24, parts[0])
    with pytest.raises(ValueError, match="encoded by another model"):
        PictureSearch.load(tmp_path / "kept", other)
    open_search(model, shop)
    assert open_search(other, shop)[1] == 4  # a place of its own in the cache


def test_damaged_vectors_are_an_error_and_the_cache_encodes_anew(model, shop, tmp_path):
    search = PictureSearch.build(model, shop)
    search.save(tmp_path / "kept")
    (tmp_path / "kept/pictures.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="no pictures that can be read"):
        PictureSearch.load(tmp_path / "kept", model)
    open_search(model, shop)
    own_home = own.cache_dir() / "own_pictures" / own.digest([model.identity, str(shop.resolve())])
    (own_home / "pictures.safetensors").write_bytes(b"torn")
    assert open_search(model, shop)[1] == 4


# --- a page


def test_a_page_holds_every_text_as_text_and_needs_nothing_else(model, shop):
    evil = "<script>alert(1)</script> & \"quoted\""
    (shop / "catalogue.csv").write_text('image,text\nred.jpg,"' + evil.replace('"', '""') + '"\n')
    (shop / "images/red.jpg").rename(shop / "images/<i>red&.jpg")
    (shop / "catalogue.csv").write_text(
        (shop / "catalogue.csv").read_text().replace("red.jpg", "<i>red&.jpg", 1)
    )
    search = PictureSearch.build(model, shop)
    page = search_page(search, evil, search.search("red", 3))
    assert page.count("data:image/jpeg;base64,") == 3 and "<script" not in page and "<i>" not in page
    assert "&lt;script&gt;alert(1)" in page.split("<ol>")[0]  # the query
    assert not re.search(r"https?:|src=\"(?!data:)|href", page)
    whole = search_page(search, "red", search.search("red", 4))
    assert "&lt;i&gt;red&amp;.jpg" in whole and "&lt;script&gt;" in whole.split("<ol>")[1]


def test_a_page_for_a_picture_shows_it(model, shop):
    search = PictureSearch.build(model, shop)
    path = shop / "images/blue.png"
    page = search_page(search, path, search.search(path, 1))
    assert page.count("data:image/jpeg;base64,") == 2 and "<title>blue.png</title>" in page


# --- trained models


@pytest.fixture
def clone(toy, parts):
    "A clone in which smoke has been run, the core only."
    write_run(toy / "outputs/runs/smoke/core", parts[0], parts[1])
    return toy


def test_the_full_run_is_preferred(clone, parts):
    core = trained.open_model("smoke")
    assert core.source == clone / "outputs/runs/smoke/core/train_pretrain/seed=0"
    first = write_run(clone / "outputs/runs/smoke/full", parts[0], parts[1], seed=5)
    full = trained.open_model("smoke")
    assert full.source == first and full.identity != core.identity
    (first / "run.json").unlink()  # not finished
    assert trained.open_model("smoke").source == core.source


def test_a_missing_run_names_the_command_that_makes_it(toy):
    for profile in ("smoke", "open"):
        with pytest.raises(FileNotFoundError, match=f"make reproduce ONLY=train_pretrain PROFILE={profile}"):
            trained.open_model(profile)
    with pytest.raises(FileNotFoundError, match="make reproduce ONLY=train_language$"):
        trained.open_captioner("mini")


def test_shipped_parts_serve_where_nothing_was_trained(toy, parts, monkeypatch):
    shipped = toy / "data/foundations"
    folder = write_run(toy / "elsewhere", parts[0], parts[1])
    monkeypatch.setattr(trained, "shipped", lambda: shipped)
    (toy / "data").mkdir()
    (toy / "elsewhere/train_foundations/parts").rename(shipped)
    (folder / "qformer").rename(shipped / "qformer")
    assert trained.open_model("mini").source == shipped
    assert trained.open_model("folder").max_words == 40


def test_a_named_folder_is_checked(clone, parts, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no qformer/"):
        trained.open_model("smoke", clone)
    wide = tmp_path / "core/train_pretrain/seed=0"
    write_run(tmp_path / "core", parts[0], parts[1])
    tiny_qformer(parts[1], image_width=48).save_pretrained(wide / "qformer")
    with pytest.raises(DataError, match="takes image tokens of 48 numbers, this profile's have 32"):
        trained.open_model("smoke", wide)
    (wide / "qformer/model.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="no Q-Former that can be read"):
        trained.open_model("smoke", wide)


def test_parts_that_were_not_trained_together_are_refused(clone):
    run = clone / "outputs/runs/smoke/core/train_pretrain/seed=0"
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"outputs": {"qformer": "another"}}))
    with pytest.raises(ValueError, match="another Q-Former .* ONLY=train_language PROFILE=smoke"):
        trained.open_captioner("smoke")
    part = "data/foundations/image-encoder"
    (clone / part).mkdir(parents=True)
    (clone / part / "card.json").write_text("{}")
    (run / "run.json").write_text(json.dumps(record | {"data": {part: "another"}}))
    with pytest.raises(ValueError, match="another image encoder .* make reproduce ONLY=train_pretrain"):
        trained.open_model("smoke")


def test_captions_name_what_is_left_out_and_which_styles_there_are(clone, shop):
    model, captioner = trained.open_captioner("smoke")
    (shop / "torn.jpg").write_bytes(b"torn")
    paths = [shop / "images/red.jpg", shop / "torn.jpg", shop / "gone.jpg", shop / "images/blue.png"]
    texts, report = own.caption_files(model, captioner, paths, "short", Language())
    assert [text is None for text in texts] == [False, True, True, False]
    assert [error.file.name for error in report.skipped] == ["torn.jpg", "gone.jpg"] and report.kept == 2
    with pytest.raises(ValueError, match="unknown style 'terse'; .* short, professional"):
        own.caption_files(model, captioner, paths, "terse", Language())


def test_identity_follows_weights_and_size(model):
    twin = trained.PictureModel(model.encoder, model.qformer, model.tokenizer, 24, model.source)
    assert twin.identity == model.identity
    wider = SimpleNamespace(identity=model.encoder.identity, size=(64, 64))
    assert trained.PictureModel(wider, model.qformer, model.tokenizer, 24, "").identity != model.identity
    with torch.no_grad():
        model.qformer.query_tokens[0, 0, 0] += 1
    again = trained.PictureModel(model.encoder, model.qformer, model.tokenizer, 24, model.source)
    assert again.identity != twin.identity
