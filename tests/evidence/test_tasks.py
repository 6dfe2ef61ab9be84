"""Every task asked once, Table 8 made of what ran, and the Q-Former as Fashion-RAG's retriever."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unifashion.evidence import tasks as t
from unifashion.evidence.claims import read_reported
from unifashion.evidence.closed_loop import found_by_queries
from unifashion.evidence.rag_systems import ASKED, BY_QUERIES, Asking
from unifashion.ground.files import load_arrays, save_arrays

LOOK = np.zeros((8, 6, 3), np.uint8)


class Model:
    "Answers what it was built for, and counts."
    styles = ["short"]

    def __init__(self, missing=()):
        self.loaded = {}
        self.tasks = {task: "not trained" if task in missing else None for _, task, _ in t.LIVE.values()}

    def open_catalogue(self, folder):
        self.loaded["retriever"] = None
        return folder

    def retrieve(self, query, shelf, k):
        return [SimpleNamespace(name=f"{n}", text="") for n in range(k)]

    def retrieve_texts(self, picture, texts, k):
        return [SimpleNamespace(text=text) for text in texts[::-1]]

    def compose(self, picture, text, shelf, k):
        self.loaded["composer"] = None
        return self.retrieve(text, shelf, k)

    def caption(self, pictures, style, texts=None):
        return ["a dress"]

    def generate(self, text="", **given):
        return LOOK


def questions(**changes):
    how = dict(folder=Path("shop"), text="a red dress", picture=LOOK, texts=["a dress", "a shirt"],
               right={"retrieval": "3", "texts": "a dress", "composed": "77"}, reference=LOOK,
               change="is red",
               person=SimpleNamespace(person=LOOK), garment=LOOK, sketch=LOOK, wish="a shirt")
    return t.Questions(**how | changes)


def ask(model, q):
    return t.ask_all(model, q, lambda path: LOOK, lambda parts: len(parts) * 2**20)


def test_every_task_is_asked_once_and_known_answers_have_their_rank():
    answers, left = ask(Model(), questions())
    assert [answer.task for answer in answers] == list(t.LIVE) and not left
    assert all(answer.told or answer.pictures for answer in answers)
    notes = {answer.task: answer.note for answer in answers if answer.note}
    assert notes == {"text-to-image retrieval": "right at 4", "image-to-text retrieval": "right at 2",
                     "composed image retrieval": "right not among 10"}
    assert [answer.mib for answer in answers[:3]] == [1, 1, 2]  # the composer is loaded when it is asked


def test_what_is_missing_is_left_out_with_its_reason():
    answers, left = ask(Model(["composed image"]), questions(person=None))
    nobody = "there is nobody to paint in this world"
    assert left == {"composed image generation": "not trained", "design": nobody, "try-on": nobody}
    rows = t.table8_rows(read_reported("unifashion_table8"), answers, "mini")
    own = {row["metric"]: (row["value"], row["protocol"], row["status"]) for row in rows[-4:]}
    assert own["Image Generation"] == (1.0, "1 of 4", "not comparable")
    assert own["XMR"] == (1.0, "2 of 2", "not comparable")
    page = t.table8_page(rows, answers, left)
    assert "| UniFashion | *yes* | *yes* | *yes* | *yes* |" in page
    assert f"not asked: {nobody}" in page


def test_a_world_without_composed_queries_is_asked_none():
    answers, left = ask(Model(), questions(reference=None))
    assert {name for name, why in left.items() if why == "this world has no composed queries"} == {
        name for name in t.LIVE if name.startswith("composed")}
    assert len(answers) == len(t.LIVE) - 3


def test_of_photographs_neither_pictures_nor_a_shops_words_are_kept_and_ticks_stay():
    theirs = "somebody's words"
    answers, _ = ask(Model(), questions(text=theirs, texts=[theirs, "more"], change=theirs, wish=theirs))
    told, arrays = t.kept_answers(t.without_other_peoples(answers))
    kept = json.dumps(told)
    assert not arrays and theirs not in kept and "a dress" in kept  # its own captions may be passed on
    again = t.read_answers(json.loads(kept), arrays)
    assert t.table8_rows([], again, "open") == t.table8_rows([], answers, "open")


def test_a_model_that_can_do_nothing_has_no_tick():
    answers, left = ask(Model([task for _, task, _ in t.LIVE.values()]), questions())
    rows = t.table8_rows([], answers, "mini")
    assert answers == [] and len(left) == len(t.LIVE)
    assert {(row["value"], row["status"]) for row in rows} == {(0.0, "not run")}


def test_printed_ticks_are_those_of_the_paper():
    printed = {(row["row"], row["metric"]): row["reported"] for row in read_reported("unifashion_table8")}
    assert len(printed) == 40
    ticks = {kind: sum(printed[row, own] for row, own in printed if own == kind) for kind in t.KINDS}
    assert list(ticks.values()) == [5, 3, 5, 4]
    assert sum(printed["UniFashion", kind] for kind in t.KINDS) == 4


def test_answers_survive_their_files(tmp_path):
    answers, _ = ask(Model(), questions())
    told, arrays = t.kept_answers(answers)
    save_arrays(tmp_path / "pictures.safetensors", arrays)
    again = t.read_answers(json.loads(json.dumps(told)), load_arrays(tmp_path / "pictures.safetensors"))
    for one, other in zip(answers, again, strict=True):
        assert one._replace(shown=(), pictures=()) == other._replace(shown=(), pictures=())
        assert np.array_equal(one.shown, other.shown) and np.array_equal(one.pictures, other.pictures)


class TwoQueries:
    "A garment is two unit vectors; a text is one of the axes, and an empty one is refused."
    axes = torch.eye(3)
    encoder = SimpleNamespace(size=(2, 3))

    def of_pictures(self, pictures):
        assert all(picture.shape == (2, 3, 3) for picture in pictures)  # of the encoder's size
        return SimpleNamespace(queries=QUERIES[[picture[0, 0, 0] for picture in pictures]])

    def of_text(self, text):
        if not text: raise ValueError("the query is empty")
        return self.axes[[int(text)]]


QUERIES = np.array([[[1, 0, 0], [0, 1, 0]], [[.6, .8, 0], [0, 0, 1]], [[0, 0, 1], [.8, .6, 0]],
                    [[1, 0, 0], [0, 0, 1]]], np.float16)


def shelf():
    "Four garments; the colour of each picture, larger than the encoder takes, is its number."
    pictures = np.broadcast_to(np.arange(4, dtype=np.uint8)[:, None, None, None], (4, 4, 6, 3))
    return SimpleNamespace(garment_ids=list("abcd"), garments=pictures, categories=["up", "up", "up", "down"])


def test_a_garment_is_the_best_of_its_queries_of_the_category_and_never_the_edited_one():
    asked = SimpleNamespace(names=["one", "two"], phrases=[("0",), ("2",)], garment_ids=["a", "x"],
                            categories=["up", "up"])
    # text 0: a 1 (edited), b .6, c .8, d of another category; text 2: a 0, b 1, c 1 (after b: stable)
    assert found_by_queries(TwoQueries(), asked, shelf(), 2) == [["c", "b"], ["b", "c"]]
    with pytest.raises(ValueError, match="one: 2 garments of 3"):
        found_by_queries(TwoQueries(), asked, shelf(), 3)
    asked.phrases = [("0",), ()]
    with pytest.raises(ValueError, match="two: the query is empty"):
        found_by_queries(TwoQueries(), asked, shelf(), 2)


def test_a_garment_that_several_wear_is_found_once():
    twice = shelf()
    twice.garment_ids = ["a", "b", "b", "d"]
    asked = SimpleNamespace(names=["one"], phrases=[("0",)], garment_ids=["x"], categories=["up"])
    assert found_by_queries(TwoQueries(), asked, twice, 2) == [["a", "b"]]


def test_one_row_of_the_table_is_found_by_the_queries():
    assert [name for name, asking in ASKED.items() if asking.by_queries] == [BY_QUERIES]
    assert ASKED[BY_QUERIES] == Asking(by_queries=True)
