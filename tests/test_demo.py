"""The page of `make demo`: what its door refuses, what its desk answers, its calls over HTTP, a page that is
clicked through, and several clients at once."""

import asyncio
import importlib.util
import io
import json
import os
import signal
import socket
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browser import Browser, find_chromium
from demo_stand_in import StandIn
from load_demo import free_port, layer, load, memory_of, png, served, statuses
from PIL import Image

from unifashion.data.samples import DataError
from unifashion.demo_desk import Desk, Drawn, sentence
from unifashion.demo_door import MAX_BODY, MAX_BYTES, MAX_HOME, Gate, check_port, checked_picture, ending
from unifashion.demo_door import mask_in, number_in, own_settings, picture_in, uploaded, words_in
from unifashion.demo_models import SHOWN, BookModels, drawn_examples

needs_gradio = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="gradio is not installed")
needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")


def encoded(picture, form, **more):
    file = io.BytesIO()
    picture.save(file, form, **more)
    return file.getvalue()


def promising(width, height):
    "A PNG whose head promises so many pixels."
    data = encoded(Image.new("1", (8, 8)), "PNG")
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8))
HOSTILE = {
    "text.png": (b"I am a text", "no known format"),
    "bomb.png": (promising(20_000, 20_000), "exceeds limit"),
    "large.png": (promising(5_000, 4_000), "5,000 x 4,000 pixels; at most 16 million"),
    "half.jpg": (encoded(PICTURE, "JPEG")[:900], "truncated or unreadable"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "no known format"),
    "gif.png": (encoded(PICTURE, "GIF"), "no known format"),
    "tiff.jpg": (encoded(PICTURE, "TIFF"), "no known format"),
    "nothing.webp": (b"", "the file is empty"),
    "point.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixels"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_is_named_and_refused(name):
    data, said = HOSTILE[name]
    with pytest.raises(DataError, match=said) as refused:
        checked_picture(data, name)
    assert refused.value.file.name == name


def test_what_is_a_picture_is_taken_upright_and_on_white():
    turned = PICTURE.getexif()
    turned[0x0112] = 6  # a quarter
    assert checked_picture(encoded(PICTURE, "JPEG", exif=turned), "x").shape == (40, 60, 3)
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    for form in ("PNG", "WEBP"):
        assert (checked_picture(encoded(clear, form), "x") == 255).all()
    assert np.array_equal(checked_picture(encoded(PICTURE, "PNG"), "a.jpg"), np.asarray(PICTURE))


def test_a_path_stays_in_its_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(PICTURE, "PNG"))
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    (home / "mine.png").write_bytes(encoded(PICTURE, "PNG"))
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "/etc/passwd", "a\0b"):
        with pytest.raises(DataError, match="no upload of this page") as refused:
            uploaded({"path": path}, home)
        assert str(tmp_path) not in sentence(refused.value)
    with pytest.raises(DataError, match="kept for an hour"):
        uploaded({"path": "gone.png"}, home)
    for value in ({"path": 7}, {"url": "http://x"}, ["a"], {"path": ""}):
        with pytest.raises(ValueError, match="wanted is a file"):
            uploaded(value, home)
    (home / "much.png").write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(DataError, match="bytes; at most"):
        picture_in({"path": "much.png"}, home)
    assert picture_in({"path": str(home / "mine.png")}, home).shape == (60, 40, 3)
    assert picture_in(None, home) is None


def test_words_numbers_and_masks():
    assert words_in(" a\n b ") == "a b"
    for value in (None, 3, "x" * 501):
        with pytest.raises(ValueError, match="text"):
            words_in(value)
    assert number_in(7.0, "k", 1, 24) == 7 and number_in(2, "g", 1.0, 15.0) == 2.0
    for value in (0, 25, "x", None, float("nan"), float("inf"), [], {}):
        with pytest.raises(ValueError, match="k is a number from 1 to 24"):
            number_in(value, "k", 1, 24)
    half = np.zeros((6, 4), bool)
    half[:3] = True
    layers = [encoded(Image.fromarray(np.uint8(m[..., None] * [9, 9, 9, 255])), "PNG") for m in (half, ~half)]
    assert np.array_equal(mask_in(layers[:1]), half) and mask_in(layers).all()
    wiped = mask_in([encoded(Image.new("RGBA", (4, 6)), "PNG")])
    assert wiped.shape == (6, 4) and not wiped.any() and mask_in([]) is None, "an eraser was there, or nobody"
    with pytest.raises(ValueError, match="several sizes"):
        mask_in([layers[0], encoded(PICTURE, "PNG")])
    with pytest.raises(DataError, match="exceeds limit"):
        mask_in([promising(20_000, 20_000)])


async def echo(scope, receive, send):
    "A server that repeats what it heard."
    heard, more = b"", True
    while more:
        message = await receive()
        heard += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": heard})


async def stumbling(scope, receive, send):
    raise KeyError("no such component")


def asked(home, method, path, body=b"", parts=1, behind=echo, **headers):
    "Status and text of one request to a gate, and what stands at the head of the answer."
    given = {"host": "127.0.0.1:7860", "content-length": str(len(body))} | headers
    pairs = [(name.encode(), value.encode()) for name, value in given.items() if value is not None]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    step = -(-len(body) // parts) or 1
    pieces = [body[k : k + step] for k in range(0, len(body), step)] or [b""]
    said = []

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        said.append(message)

    asyncio.run(Gate(behind, home)(scope, receive, send))
    return said[0]["status"], said[1]["body"].decode(), dict(said[0]["headers"])


JOIN = "/gradio_api/queue/join"


@pytest.mark.parametrize(
    ("status", "request_of"),
    [
        (200, ("GET", "/")),
        (200, ("GET", "/assets/index.js")),
        (200, ("POST", "/gradio_api/upload", b"x")),
        (404, ("GET", "/gradio_api/proxy=http://example.org/")),
        (404, ("GET", "/docs")),
        (404, ("GET", "/monitoring")),
        (404, ("POST", "/gradio_api/vibe-edit", b"{}")),
        (404, ("POST", "/gradio_api/process_recording", b"{}")),
        (404, ("PUT", "/")),
        (403, ("GET", "/gradio_api/file=/etc/passwd")),
        (403, ("GET", "/gradio_api/file=../../../etc/passwd")),
        (403, ("GET", "/gradio_api/file=http://example.org/x.png")),
        (403, ("POST", JOIN, b'{"data": [{"path": "/etc/passwd"}]}')),
        (403, ("POST", JOIN, b'{"data": [{"p\\u0061th": "http:\\/\\/example.org/x.png"}]}')),
        (403, ("POST", "/gradio_api/call/search", b'{"data": [[{"layers": [{"path": "../x"}]}]]}')),
        (400, ("POST", JOIN, b"{")),
        (400, ("POST", JOIN, b"[" * 100_000)),
        (413, ("POST", JOIN, bytes(MAX_BODY + 1))),
    ],
)
def test_the_gate(tmp_path, status, request_of):
    told = asked(tmp_path, *request_of)
    assert told[0] == status and str(tmp_path) not in told[1]


def test_the_gate_knows_this_machine_and_its_own_pages(tmp_path):
    assert asked(tmp_path, "GET", "/", host="localhost:7861")[0] == 200
    for host in ("example.org", "example.org:7860", "127.0.0.1.example.org", ""):
        assert asked(tmp_path, "GET", "/", host=host)[0] == 403
    body = {"body": b"1", "origin": "http://127.0.0.1:7860"}
    assert asked(tmp_path, "POST", JOIN, **body)[0] == 200
    for origin in ("http://example.org", "https://127.0.0.1:7860", "null", "http://127.0.0.1:80"):
        assert asked(tmp_path, "POST", "/gradio_api/upload", b"1", origin=origin)[0] == 403


def test_the_gate_passes_bodies_on_whole_and_says_what_may_be_loaded(tmp_path):
    body = json.dumps({"data": [{"path": str(tmp_path / "x.png")}, "red"]}).encode()
    status, heard, headers = asked(tmp_path, "POST", JOIN, body, parts=7)
    assert status == 200 and heard == body.decode()
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    for length in (None, "much", "-1", "9" * 5000):
        assert asked(tmp_path, "POST", JOIN, body, **{"content-length": length})[0] == 411
    upload = "/gradio_api/upload"
    for path in (JOIN, upload):
        assert asked(tmp_path, "POST", path, body, **{"transfer-encoding": "chunked"})[0] == 411
    assert asked(tmp_path, "POST", JOIN, bytes(MAX_BODY + 1), 9, **{"content-length": "5"})[0] == 413
    assert asked(tmp_path, "POST", upload, b"x", **{"content-length": str(2 * MAX_BYTES)})[0] == 413
    with open(tmp_path / "full", "wb") as file:
        file.truncate(MAX_HOME + 1)
    assert asked(tmp_path, "POST", upload, b"x")[0] == 507
    assert asked(tmp_path, "POST", JOIN, b"1")[0] == 200


def test_a_request_over_which_the_server_stumbles_is_refused(tmp_path, capsys):
    call = asked(tmp_path, "POST", "/gradio_api/call/unknown", b"{}", behind=stumbling)
    assert call[:2] == (404, "no such call")
    assert asked(tmp_path, "POST", "/gradio_api/component_server", b"{}", behind=stumbling)[0] == 400
    assert capsys.readouterr().err.count("KeyError") == 2
    with pytest.raises(KeyError):
        asked(tmp_path, "GET", "/", behind=stumbling)


@pytest.fixture
def own_process(monkeypatch):
    "Variables and signals that a test may change."
    monkeypatch.setattr(os, "environ", dict(os.environ))
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in kept:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_variables_that_could_open_the_page_are_put_aside(tmp_path, own_process):
    os.environ |= {"GRADIO_SHARE": "true", "no_proxy": "", "NO_PROXY": "example.org"}
    own_settings(tmp_path)
    assert "GRADIO_SHARE" not in os.environ and os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_an_end_is_heard_of(own_process):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ended = ending()
    signal.raise_signal(signal.SIGHUP)
    assert not ended.is_set(), "started with nohup"
    signal.raise_signal(signal.SIGTERM)
    assert ended.is_set()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    ended = ending()
    signal.raise_signal(signal.SIGHUP)
    assert ended.is_set()


@needs_gradio
def test_a_page_that_is_ended_while_it_starts_leaves_nothing(tmp_path, monkeypatch, own_process):
    from unifashion import demo

    class Page:
        def launch(self, **settings):
            assert list(tmp_path.glob("unifashion-demo-*"))
            signal.raise_signal(signal.SIGTERM)

        def close(self, verbose):
            pass

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "make_page", lambda desk, examples: Page())
    monkeypatch.setattr(demo, "drawn_examples", lambda folder: [])
    demo.serve(None, free_port())
    assert not list(tmp_path.iterdir())


@needs_gradio
def test_an_editor_is_read_and_keeps_little(tmp_path):
    import gradio as gr

    from unifashion.demo import FEW, LAYERS, MAX_BLOB, bounded, heading, read_editor

    editor = bounded(gr.ImageEditor())

    def send(name, index="0", data=b"x"):
        told = {"id": name, "index": index, "type": "layer"}
        editor.accept_blobs(SimpleNamespace(data=told, files=[("x", data)]))

    for number in range(300):
        send(f"blob {number}")
    assert list(editor.blob_storage) == [f"blob {number}" for number in range(300 - FEW, 300)]
    send("far", str(LAYERS))
    assert "far" not in editor.blob_storage
    with pytest.raises(ValueError, match="too large"):
        send("large", data=bytes(MAX_BLOB + 1))
    assert read_editor(editor, {"id": "blob 299"}, tmp_path) == Drawn([b"x"], None)
    assert read_editor(editor, {"id": "blob 299"}, tmp_path) == Drawn([], None), "it is given once"
    (tmp_path / "a.png").write_bytes(b"a")
    mine = [of(tmp_path / "a.png")] * LAYERS
    assert read_editor(editor, {"layers": mine}, tmp_path) == Drawn([b"a"] * LAYERS, None)
    for value in ({"layers": [*mine, of("gone.png")]}, {"layers": {"path": "a.png"}}, "a.png"):
        with pytest.raises(ValueError, match="an editor h"):
            read_editor(editor, value, tmp_path)
    assert "thumbnails of 48 x 64 pixels" in heading((64, 48))


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} cannot be used"):
            check_port(port)
    check_port(port)
    for port in (0, -1, 65536):
        with pytest.raises(ValueError, match="1 to 65535"):
            check_port(port)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads").resolve()


@pytest.fixture(scope="module")
def examples(home):
    return drawn_examples(home / "examples")


def of(path):
    return {"path": str(path)}


QUICK = (3, 3.0, 0)


def pixel(path):
    "In the middle of a painting."
    return np.asarray(Image.open(path))[250, 190]


def test_each_tab_at_the_desk(home, examples):
    desk, steps = Desk(StandIn(), home), []
    told = (*QUICK, lambda done, of_all: steps.append((done, of_all)))
    me, shirt = examples[0], of(examples[0].garment)
    found = desk.search("red dress", None, 5)
    assert len(found) == 5 and all(Path(path).is_relative_to(home) for path, _ in found)
    assert found[0][1].startswith("1 · ") and "red" in found[0][1]
    assert len(desk.compose(shirt, "is red", 3)) == 3
    assert [text.split(":")[0] for text in desk.caption(shirt)] == ["short", "professional", "key points"]
    drawn = Drawn([layer()], None)
    painted = Image.open(desk.try_on(of(me.photo), None, drawn, me.category, shirt, *told))
    assert painted.size == SHOWN[::-1] and steps == [(1, 3), (2, 3), (3, 3)]
    pixels = np.asarray(painted)
    assert (pixels[::4, ::4].repeat(4, 0).repeat(4, 1) == pixels).all(), "pixels are squares"
    sketched = Drawn([], me.sketch.read_bytes())
    for lines in ((sketched, None), (None, shirt)):
        made = desk.design(of(me.photo), of(me.points), None, me.category, "green", *lines, *told)
        assert (pixel(made) == (40, 120, 60)).all()
    pictures, choices = desk.look_up("black sweater", 2)
    assert len(pictures) == len(choices) == 2
    names = [name for _, name in choices]
    both, one, none = (
        pixel(desk.edit(of(me.photo), of(me.points), None, me.category, "black", kept, *told))
        for kept in (names, names[:1], [])
    )
    assert (none == 90).all() and not (both == one).all()


def test_the_desk_says_what_is_missing(home, examples):
    desk = Desk(StandIn({"edit": "no pipeline yet; make one with: make reproduce"}), home)
    photo, shirt, category = of(examples[0].photo), of(examples[0].garment), "upper_body"
    points, told = of(examples[0].points), (*QUICK, None)
    wiped = Drawn([encoded(Image.new("RGBA", SHOWN[::-1]), "PNG")], None)
    blank = Drawn([], encoded(Image.new("RGB", (40, 40), "white"), "PNG"))
    everywhere = Drawn([encoded(Image.new("RGBA", SHOWN[::-1], (1, 1, 1, 255)), "PNG")], None)
    for said, call in {
        "type what you look for": lambda: desk.search("  ", None, 3),
        "composed search": lambda: desk.search("red", shirt, 3),
        "how many is a number from 1 to 24": lambda: desk.search("red", None, 10**9),
        "how many is": lambda: desk.compose(shirt, "is red", 0),
        "the picture to start from": lambda: desk.compose(None, "is red", 3),
        "what should be different": lambda: desk.compose(shirt, "", 3),
        "a picture to describe": lambda: desk.caption(None),
        "a photograph of a person": lambda: desk.try_on(None, None, None, category, shirt, *told),
        "the garment's picture": lambda: desk.try_on(photo, None, None, category, None, *told),
        "paint with the brush": lambda: desk.try_on(photo, None, None, category, shirt, *told),
        "give keypoints": lambda: desk.try_on(photo, points, wiped, category, shirt, *told),
        "leave something": lambda: desk.try_on(photo, None, everywhere, category, shirt, *told),
        "one of upper_body": lambda: desk.try_on(photo, None, None, "hat", shirt, *told),
        "draw a sketch": lambda: desk.design(photo, None, None, category, "", blank, None, *told),
        "steps is a number from 1 to 50": lambda: desk.try_on(
            photo, None, None, category, shirt, 51, 3.0, 0, None
        ),
        "make reproduce": lambda: desk.look_up("red", 3),
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            call()
    desk = Desk(StandIn(), home)
    for kept in (["../../etc/passwd"], "images", [1], ["images/gone.png"], [{}]):
        with pytest.raises(ValueError, match="look up again"):
            desk.edit(photo, None, None, category, "red", kept, *told)


def test_the_editor_is_given_photograph_and_box(home, examples):
    desk, me = Desk(StandIn(), home), examples[0]
    shown = desk.canvas(of(me.photo), of(me.points), me.category)
    background, box = (np.asarray(Image.open(path)) for path in (shown["background"], *shown["layers"]))
    assert background.shape == (*SHOWN, 3) and box.shape == (*SHOWN, 4)
    assert box[..., 3].any() and not box[..., 3].all()
    again = desk.canvas(of(me.photo), of(me.points), me.category)
    assert again == shown, "the same files, so that none is read while it is written"
    assert desk.canvas(of(me.photo), None, me.category)["layers"] == []
    assert desk.canvas(None, None, me.category) is None
    (home / "broken.json").write_text("[")
    with pytest.raises(ValueError):
        desk.canvas(of(me.photo), of(home / "broken.json"), me.category)


class NoModel(BookModels):
    "The book's people and sketches, without a model."

    lacking, size = {}, (128, 96)

    def __init__(self):
        pass


def test_a_brush_says_where_to_paint_whatever_keypoints_show(home, examples):
    desk, me = Desk(NoModel(), home), examples[0]
    told = json.loads(me.points.read_text())
    told["people"][0]["pose_keypoints_2d"][3 * 8 : 3 * 15] = [0] * 21  # from the hips down
    (home / "upper.json").write_text(json.dumps(told))
    photo, points = of(me.photo), of(home / "upper.json")
    with pytest.raises(DataError, match="none of those that a box for lower_body needs"):
        desk.wearer(photo, points, None, "lower_body")
    own = desk.wearer(photo, points, Drawn([layer()], None), "lower_body")
    assert own.mask[60].any() and own.keypoints.any() and own.pose.any()


def test_keypoints_that_no_number_can_hold_are_refused(home, examples):
    told = json.loads(examples[0].points.read_text())
    told["people"][0]["pose_keypoints_2d"][0] = 10**400
    (home / "huge.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match="huge.json: a number in it is too large"):
        Desk(NoModel(), home).person(of(examples[0].photo), of(home / "huge.json"), "upper_body")


def test_a_picture_without_a_line_gives_no_sketch():
    with pytest.raises(ValueError, match="no line was found"):
        NoModel().outline(np.full((40, 30, 3), 200, np.uint8))


def test_a_sentence_names_no_folder(capsys):
    for kind in (OSError, FileNotFoundError, ConnectionError):
        said = sentence(kind("no file named model.safetensors in directory /srv/models/design"))
        assert said == "the model cannot be read; the terminal says more"
        assert "/srv/models/design" in capsys.readouterr().err
    assert sentence(PermissionError(13, "refused", "/srv/x")) == "refused"
    assert sentence(FileNotFoundError("no design yet: make it")) == "no design yet: make it"
    assert sentence(DataError("no picture", "/srv/<b>.png")) == "&lt;b&gt;.png: no picture"


@pytest.fixture
def unloaded(tmp_path, monkeypatch):
    "`BookModels` of a profile over two garments, one of which has gone; nothing can be loaded."
    from unifashion.unified.model import UniFashion

    (tmp_path / "captioner.json").write_text('{"styles": ["short", "long"]}')
    png_file = encoded(PICTURE, "PNG")
    (tmp_path / "a.png").write_bytes(png_file)
    needs = SimpleNamespace(read=(256, 192), painted=(64, 48))
    pictures = SimpleNamespace(names=["a.png", "gone.png"], texts={})
    model = SimpleNamespace(
        own=SimpleNamespace(needs=needs, places={"captioner": tmp_path}),
        tasks=dict.fromkeys(("retrieval", "composed retrieval", "caption", "design", "try-on")),
        open_catalogue=lambda folder: SimpleNamespace(pictures=pictures),
    )
    monkeypatch.setattr(UniFashion, "from_pretrained", staticmethod(lambda profile: model))
    return lambda profile: BookModels(profile, tmp_path)


def test_what_a_page_says_first_loads_nothing(unloaded):
    models = unloaded("open")
    assert models.size == (64, 48) and models.styles == ["short", "long"]
    assert models.lacking == {"edit": "profile open trains no editor"}


def test_the_editor_is_opened_once_over_the_garments_of_the_start(unloaded, tmp_path, monkeypatch):
    pipe = SimpleNamespace(database=SimpleNamespace(search=SimpleNamespace(retriever=None)))
    pipe.to = lambda device: pipe
    pipe.image_encoder, pipe.set_progress_bar_config = None, lambda **_: None
    opened = []

    def opening(folder):
        opened.append(folder)
        time.sleep(0.1)  # for another thread to come in
        return pipe

    build = SimpleNamespace(build=lambda retriever, encoder, pictures: sorted(pictures))
    monkeypatch.setattr("unifashion.rag.pipeline.FashionRAG", SimpleNamespace(from_pretrained=opening))
    monkeypatch.setattr("unifashion.rag.pipeline.GarmentDatabase", build)
    monkeypatch.setattr("unifashion.unified.own_fittings.pipeline_folder", lambda *_: tmp_path)
    models = unloaded("mini")
    (tmp_path / "later.png").write_bytes(encoded(PICTURE, "PNG"))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: models.editor, range(2)))
    assert both == [pipe, pipe] and len(opened) == 1
    assert pipe.database == ["a.png"]


def test_the_books_own_search_behind_the_desk(tmp_path, monkeypatch):
    "With the shipped Q-Former, and nothing trained: what can be done is done, the rest names its command."
    for module in ("trained_models", "trained_parts"):
        monkeypatch.setattr(f"unifashion.unified.{module}.repo_root", lambda: tmp_path)
    from unifashion.wardrobe.drawing import draw
    from unifashion.wardrobe.sampling import sample_garment

    folder = tmp_path / "shop"
    folder.mkdir()
    for kind in ("dress", "trousers", "jacket"):
        picture = draw(sample_garment(np.random.default_rng(5), kind), "front", 128, 96)
        Image.fromarray(picture).save(folder / f"{kind}.png")
    models = BookModels("mini", folder)
    desk = Desk(models, tmp_path)
    assert models.names == {"dress.png", "trousers.png", "jacket.png"} and models.size == (128, 96)
    found = desk.search("", of(folder / "jacket.png"), 2)
    assert found[0][1].startswith("1 · 1.00 · jacket.png")
    assert desk.search("trousers", None, 1)[0][1].endswith("trousers.png")
    assert set(models.lacking) == {"compose", "caption", "design", "try-on", "edit"}
    for tab, said in models.lacking.items():
        assert "make reproduce" in said, tab
        with pytest.raises(FileNotFoundError):
            desk.check(tab)
    person = drawn_examples(tmp_path)[0]
    own = models.person(person.photo, person.points, person.category, None)
    assert own.mask.any() and own.keypoints.any() and own.person.shape == (128, 96, 3)
    (tmp_path / "two.json").write_text('{"people": []}')
    with pytest.raises(DataError, match="no person"):
        models.person(person.photo, tmp_path / "two.json", person.category, None)


def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    from unifashion.app import main

    for words, said in (
        (["--catalogue", str(tmp_path / "none")], "no such folder"),
        (["--catalogue", str(tmp_path)], "no picture in this folder"),
        (["--profile", "tiny"], "unknown profile 'tiny'"),
        (["--port", "70000"], "a port is a number"),
    ):
        assert main(["demo", *words]) == 1
        assert said in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 1
        assert "cannot be used" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "unifashion.demo", raising=False)
    assert main(["demo", "--port", str(free_port())]) == 1
    assert 'pip install "unifashion[demo]"' in capsys.readouterr().err


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "(address, process, file of what it complains of) of a page over a stand-in."
    place = tmp_path_factory.mktemp("server")
    port, errors = free_port(), place / "errors.txt"
    opening = {"TMPDIR": str(place), "GRADIO_SHARE": "true", "GRADIO_ALLOWED_PATHS": "/"}  # put aside
    opening |= {"http_proxy": "http://127.0.0.1:9", "no_proxy": "example.org"}  # nobody is there
    with open(errors, "w") as file, served(port, errors=file, **opening) as process:
        assert len(list(place.glob("unifashion-demo-*"))) == 1
        yield f"http://127.0.0.1:{port}", process, errors
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            process.send_signal(signal.SIGHUP)
            process.wait(15)
    assert process.returncode == 0 and not list(place.glob("unifashion-demo-*")), "nothing is left"


def answers(client, *values, call):
    "What a call gives, or the sentence with which it is refused."
    from gradio_client.exceptions import AppError

    try:
        return client.submit(*values, api_name=f"/{call}").result(timeout=60), ""
    except AppError as error:
        return None, str(error)


@needs_gradio
def test_each_tab_over_http_and_a_hostile_file_at_each(page, tmp_path, examples):
    from gradio_client import Client, handle_file

    address, process, errors = page
    before = len(errors.read_text())
    client = Client(address, verbose=False, download_files=str(tmp_path), analytics_enabled=False)
    me = examples[0]
    (tmp_path / "text.png").write_bytes(HOSTILE["text.png"][0])
    (tmp_path / "bomb.png").write_bytes(HOSTILE["bomb.png"][0])
    (tmp_path / "brush.png").write_bytes(layer())
    (tmp_path / "half.jpg").write_bytes(HOSTILE["half.jpg"][0])
    bad, bomb, half = (handle_file(tmp_path / name) for name in ("text.png", "bomb.png", "half.jpg"))
    photo, garment, points = (handle_file(path) for path in (me.photo, me.garment, me.points))

    def editor(path=None):
        layers = [handle_file(path)] if path else []
        return {"background": None, "layers": layers, "composite": None}

    sketch = {"background": None, "layers": [], "composite": handle_file(me.sketch)}
    brush, place = editor(tmp_path / "brush.png"), me.category
    sound = {
        "search": ("red dress", None, 3),
        "compose": (garment, "is red", 3),
        "caption": (garment,),
        "design": (photo, points, editor(), place, "green sweater", sketch, None, *QUICK),
        "try_on": (photo, None, brush, place, garment, *QUICK),
        "look_up": ("black sweater", 2),
        "edit": (photo, points, brush, place, "black sweater", [], *QUICK),
    }
    for call, values in sound.items():
        answer, refused = answers(client, *values, call=call)
        assert answer and not refused, (call, refused)
    hostile = {
        "search": ("", bomb, 3),
        "compose": (bad, "is red", 3),
        "caption": (half,),
        "design": (bad, points, editor(), place, "green sweater", sketch, None, *QUICK),
        "try_on": (photo, None, editor(tmp_path / "bomb.png"), place, garment, *QUICK),
        "edit": (photo, bad, brush, place, "black sweater", ["/etc/passwd"], *QUICK),
    }
    for call, values in hostile.items():
        answer, refused = answers(client, *values, call=call)
        assert answer is None and refused and "/" not in refused.replace("</", ""), (call, refused)
    assert answers(client, *sound["search"], call="search")[0], "the server lives on"
    client.close()
    assert process.poll() is None and "Traceback" not in errors.read_text()[before:]


@needs_gradio
def test_addresses_and_files_that_are_not_the_pages(page):
    import httpx

    address, _, errors = page
    with httpx.Client(base_url=address, trust_env=False, timeout=20) as web:
        assert web.get("/").status_code == 200
        for path in ("/etc/passwd", "../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "http://example.org/"):
            answer = web.get(f"/gradio_api/file={path}")
            assert answer.status_code in (403, 404) and "root:" not in answer.text
        files = {"files": ("x.png", bytes(MAX_BYTES + 1))}
        assert web.post("/gradio_api/upload", files=files).status_code == 413
        sent = web.post("/gradio_api/upload", files={"files": ("../../x.png", png((8, 8)))})
        assert sent.status_code == 200 and Path(sent.json()[0]).name == "x.png"
        here = web.get(f"/gradio_api/file={sent.json()[0]}")
        assert here.status_code == 200 and here.content == png((8, 8))
        for body in ({"data": "no list"}, {}, {"data": [1]}, {"data": [{}, {}, {}]}):
            answer = web.post("/gradio_api/call/search", json=body)
            assert answer.status_code < 500
            if answer.status_code == 200:
                told = web.get(f"/gradio_api/call/search/{answer.json()['event_id']}").text
                assert "event: error" in told and "site-packages" not in told
        assert web.get("/", headers={"host": "example.org"}).status_code == 403
        before = len(errors.read_text())
        assert web.post("/gradio_api/call/unknown", json={"data": []}).status_code == 404
        parts = web.get("/config").json()["components"]
        editor = next(part["id"] for part in parts if part["type"] == "imageeditor")
        own = {"session_hash": "s", "fn_name": "accept_blobs", "data": {"type": "layer"}}
        for body in (own | {"component_id": 10**6}, own | {"component_id": editor}, own, []):
            assert web.post("/gradio_api/component_server", json=body).status_code == 400
        assert web.post(JOIN, json={"data": [], "fn_index": 10**6, "session_hash": "s"}).status_code == 400
    port = int(address.rsplit(":", 1)[1])
    for path in (JOIN, "/gradio_api/upload"):
        with socket.create_connection(("127.0.0.1", port), 20) as raw:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 2\r\n"
            raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n".encode())
            assert raw.recv(64).split()[1] in (b"411", b"400"), "two lengths"
    assert "Traceback" not in errors.read_text()[before:]


@needs_gradio
def test_a_brush_that_never_paints_fills_no_memory(page):
    import httpx

    address, process, _ = page
    with httpx.Client(base_url=address, trust_env=False, timeout=20) as web:
        parts = web.get("/config").json()["components"]
        editor = next(part["id"] for part in parts if part["type"] == "imageeditor")
        before = memory_of(process.pid)
        fields = {"component_id": editor, "session_hash": "s", "fn_name": "accept_blobs", "type": "layer"}
        for index, size, status in ((0, 8, 200), (3 * 10**7, 8, 200), (0, 3 << 20, 400)):
            fields |= {"index": index, "id": f"blob {index} {size}"}
            sent = web.post("/gradio_api/component_server", data=fields, files={"file": ("x", bytes(size))})
            assert sent.status_code == status, sent.text
        assert memory_of(process.pid) < before + 120, "no 30 million layers"


@needs_gradio
def test_several_clients_for_a_few_seconds(page):
    address, process, errors = page
    before = len(errors.read_text())
    work = load(int(address.rsplit(":", 1)[1]), 16, 2, process.pid)
    told, memory = asyncio.run(asyncio.wait_for(work, 120))
    assert not [status for status in statuses(told) if status >= 500] and told["alive",] == 200
    assert told["answers", "search", "complete"] >= 16 and told["answers", "search", "error"] >= 16
    assert told["status", 403] >= 1, "a path that leads elsewhere"
    assert max(memory) < memory[0] + 300 and "Traceback" not in errors.read_text()[before:]


PANEL = "[...document.querySelectorAll('[role=tabpanel]')].find(p => p.style.display !== 'none')"
TOAST = "[...document.querySelectorAll('.toast-body')].map(t => t.textContent).join(' ')"


class Clicks:
    "Somebody at the page."

    def __init__(self, browser):
        self.browser = browser

    def tab(self, name):
        tabs = "[...document.querySelectorAll('button[role=tab]')]"
        self.browser.run(f"{tabs}.find(t => t.textContent.trim() === {name!r}).click()")
        self.browser.wait(f"{tabs}.find(t => t.textContent.trim() === {name!r}).ariaSelected === 'true'")

    def example(self, number):
        rows = f"({PANEL}).querySelectorAll('.tr-body, .gallery-item')"
        self.browser.wait(f"{rows}.length > {number}")
        self.browser.run(f"{rows}[{number}].click()")

    def press(self, label):
        button = f"[...({PANEL}).querySelectorAll('button')].find(b => b.textContent.trim() === {label!r})"
        self.browser.wait(f"({button}) && !({button}).disabled")
        self.browser.run(f"({button}).click()")

    def see(self, script):
        try:
            self.browser.wait(script.replace("PANEL", f"({PANEL})"), 12)
        except AssertionError as error:
            tab = self.browser.run("document.querySelector('[role=tab][aria-selected=true]').textContent")
            raise AssertionError(f"{tab}: {self.browser.run(TOAST)}: {error}") from None

    def hostile(self, path, label, said):
        "Give a file to the first place of the tab, press where there is a label, and read what is said."
        self.browser.run("[...document.querySelectorAll('.toast-close')].forEach(b => b.click())")
        clear = f"({PANEL}).querySelector('button[aria-label=\"Remove Image\"]')"
        self.browser.run(f"!!({clear}) && ({clear}).click()")
        place = f"({PANEL}).querySelector('input[type=file][accept=\"image/*\"]')"
        self.browser.wait(f"!!{place}")
        self.browser.give_file(place, path)
        name = path.name.split(".")[0]
        pictures = f"[...({PANEL}).querySelectorAll('img')]"
        self.browser.wait(f"{pictures}.some(i => i.src.includes({name!r}))")
        if label:
            self.press(label)
        self.browser.wait(f"({TOAST}).includes({said!r})")


PAINTED = "[...PANEL.querySelectorAll('img')].some(i => i.src.includes('/shown/') && i.naturalHeight === 512)"
SHOWN_IN = "PANEL.querySelectorAll('.image-frame img, .image-container img')"
FOUND = "PANEL.querySelectorAll('.thumbnail-item img').length >= 3"
TABS = {
    "Search": (0, "Search", FOUND),
    "Composed search": (0, "Search", FOUND),
    "Captions": (0, "Describe", "[...PANEL.querySelectorAll('textarea')].filter(t => t.value).length === 3"),
    "Design": (1, "Paint", PAINTED),
    "Try-on": (0, "Put it on", PAINTED),
    "Edit": (0, "Paint", PAINTED),
}


@needs_gradio
@needs_chromium
def test_the_page_is_clicked_through(page, tmp_path):
    pytest.importorskip("websocket")
    address, process, errors = page
    before = len(errors.read_text())
    bad = tmp_path / "hostile-text.png"
    bad.write_bytes(HOSTILE["text.png"][0])
    browser = Browser(tmp_path / "profile", 1000, 700)
    try:
        browser.open(address)
        browser.wait("document.querySelectorAll('button[role=tab]').length >= 6", 40)
        clicks = Clicks(browser)
        for tab, (example, label, seen) in TABS.items():
            clicks.tab(tab)
            clicks.example(example)
            if label in ("Paint", "Put it on"):
                clicks.see(f"[...{SHOWN_IN}].some(i => i.src.includes('-person'))")
                clicks.see("PANEL.textContent.includes('json')")
                time.sleep(0.7 if tab == "Design" else 0)  # until the editor has drawn the box
            elif tab != "Search":
                clicks.see(f"{SHOWN_IN}.length >= 1")
            else:
                clicks.see("PANEL.querySelector('textarea').value === 'red dress'")
            if tab == "Edit":
                clicks.press("Look up")
                clicks.see("PANEL.querySelectorAll('input[type=checkbox]:checked').length === 3")
                browser.run(f"({PANEL}).querySelector('input[type=checkbox]:checked').click()")
            clicks.press(label)
            clicks.see(seen)
        for tab, label in (("Captions", "Describe"), ("Try-on", "")):  # looked at when asked; when given
            clicks.tab(tab)
            clicks.hostile(bad, label, "hostile-text.png: no PNG, JPEG or WebP picture")
        elsewhere = [url for url in browser.asked if not url.startswith((address, "data:", "blob:"))]
        assert not elsewhere and not browser.errors
    finally:
        browser.close()
    assert process.poll() is None and "Traceback" not in errors.read_text()[before:]
