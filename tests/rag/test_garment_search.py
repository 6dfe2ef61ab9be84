"""Garment search: excluded by id, kept in a category, measured beside chance; and every refusal."""

import numpy as np
import pytest

from unifashion.data.retrieved_lists import read_retrieved, write_retrieved
from unifashion.data.samples import DataError, ImageRef, Report
from unifashion.models.index import Index
from unifashion.rag.garment_search import (GarmentSearch, alike, as_lists, read_garments, relevance,
                                           sharing_phrases)
from unifashion.wardrobe.garments import Garment

WORDS = {"red": 0, "green": 1, "blue": 2}


class Colours:
    "Pictures and texts as their colours: everybody can say what is found."
    identity = "colours"

    def images(self, pictures):
        means = np.stack([np.asarray(own, float).mean((0, 1)) + 1e-3 for own in pictures])
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)

    def texts(self, texts):
        return np.eye(3, dtype=np.float32)[[WORDS.get(text.split()[0], 0) for text in texts]]


def picture(*rgb):
    return np.full((4, 3, 3), rgb, np.uint8)


@pytest.fixture
def search():
    pictures = [picture(255, 0, 0), picture(255, 60, 0), picture(0, 0, 255), picture(250, 0, 30)]
    groups = ["upper_body", "upper_body", "upper_body", "dresses"]
    return GarmentSearch.build(Colours(), ["r", "orange", "b", "red dress"], pictures, groups)


def names(found):
    return [[hit.name for hit in own] for own in found]


def test_the_edited_garment_is_left_out_by_its_id(search):
    assert names(search.search(["red shirt"], 2, ["upper_body"])) == [["r", "orange"]]
    assert names(search.search(["red shirt"], 2, ["upper_body"], [{"r"}])) == [["orange", "b"]]


def test_a_twin_with_the_same_text_and_look_stays(search):
    search.add(["twin"], [picture(255, 0, 0)], ["upper_body"])
    assert names(search.search(["red shirt"], 1, ["upper_body"], [{"r"}])) == [["twin"]]


def test_what_is_too_far_is_rejected_and_all_may_be(search):
    assert names(search.search(["red shirt"], 3, ["upper_body"], least=0.5)) == [["r", "orange"]]
    assert search.search(["green shirt"], 3, ["upper_body"], least=0.9) == [[]]


@pytest.mark.parametrize("call, words", [
    (lambda search: GarmentSearch.build(Colours(), [], []), "a database of no garments"),
    (lambda search: search.search(["red"], 1, ["shoes"]), "the index has no 'shoes'"),
    (lambda search: search.search(["  "]), "an empty text finds nothing"),
    (lambda search: search.search("red shirt"), "a list of texts, not one text"),
    (lambda search: search.add(["r"], [picture(1, 2, 3)]), "'r' is in this index already"),
    (lambda search: GarmentSearch(Colours(), Index("CLIP", 3)), "built with CLIP, the retriever is colours"),
])
def test_refusals(call, words, search):
    with pytest.raises(ValueError, match=words):
        call(search)


def test_stored_and_loaded_for_the_same_space_alone(search, tmp_path):
    search.save(tmp_path / "garments.safetensors")
    again = GarmentSearch.load(tmp_path / "garments.safetensors", Colours())
    assert again.fingerprint == search.fingerprint
    assert again.search(["blue"], 2) == search.search(["blue"], 2)
    other = Colours()
    other.identity = "others"
    with pytest.raises(ValueError, match="built with colours; the retriever here is others"):
        GarmentSearch.load(tmp_path / "garments.safetensors", other)


class Broken:
    def read(self, key):
        if key == "torn": raise DataError("cannot be decoded", "torn.jpg", None, "broken picture")
        return picture(1, 2, 3)

    def label(self, key): return f"{key}.jpg"


def test_unreadable_garments_are_counted_or_raised():
    places = {name: ImageRef(Broken(), name) for name in ("whole", "torn")}
    report = Report("skip")
    assert list(read_garments(places, report)) == ["whole"] and report.counts == {"broken picture": 1}
    with pytest.raises(DataError, match="torn.jpg: cannot be decoded"):
        read_garments(places, Report())
    with pytest.raises(DataError, match="none of 1 garments can be read: 1 x broken picture"):
        read_garments({"torn": places["torn"]}, Report("skip"))


def test_precision_recall_and_chance_by_hand():
    relevant = np.array([[True, False, True, True], [False] * 4])
    allowed = np.array([[True, True, True, False], [True] * 4])  # the fourth is the asked garment itself
    told = relevance([["a", "b"], ["c", "d"]], list("abcd"), relevant, allowed, 2)
    assert told.precision.tolist() == [0.5, 0] and told.precision_by_chance.tolist() == [2 / 3, 0]
    assert told.recall[0] == 0.5 and np.isnan(told.recall[1])
    assert told.recall_by_chance[0] == 2 / 3 and np.isnan(told.recall_by_chance[1])
    with pytest.raises(ValueError, match="query 0: an answer that was not allowed"):
        relevance([["d"], ["a"]], list("abcd"), relevant, allowed, 1)


def test_chance_is_what_random_answers_give():
    rng = np.random.default_rng(0)
    relevant, allowed = rng.random((400, 30)) < 0.2, np.ones((400, 30), bool)
    ids = [str(k) for k in range(30)]
    random = [[ids[k] for k in rng.permutation(30)[:3]] for _ in range(400)]
    told = relevance(random, ids, relevant, allowed, 3)
    assert told.precision.mean() == pytest.approx(told.precision_by_chance.mean(), abs=0.04)
    assert np.nanmean(told.recall) == pytest.approx(np.nanmean(told.recall_by_chance), abs=0.03)


def test_who_resembles_whom():
    jeans = Garment("jeans", "blue", length="full", closure="zip", fabric="denim")
    black = Garment("jeans", "black", length="full", closure="zip", fabric="denim")
    skirt = Garment("skirt", "blue", length="mini")
    assert alike([jeans], [jeans, black, skirt]).tolist() == [[True, True, False]]
    assert alike([jeans], [skirt], least=2).tolist() == [[True]]  # colour, pattern; no sleeve is no agreement
    assert not alike([jeans], [skirt], least=3).any()
    assert sharing_phrases([("a", "b"), ()], [("b",), ("c",)]).tolist() == [[True, False], [False, False]]


def test_answers_in_the_released_form(search, tmp_path):
    found = search.search(["blue shirt", "red shirt"], 2, ["upper_body"] * 2)
    lists = as_lists(["blue shirt", "red shirt"], found, {"recall_1": 0.5})
    write_retrieved(tmp_path / "lists.json", lists, "upper_body")
    assert read_retrieved(tmp_path / "lists.json") == lists
    with pytest.raises(ValueError, match="two answers to 'red shirt'"):
        as_lists(["red shirt"] * 2, found)
