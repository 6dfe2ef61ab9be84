"""Fashion-RAG's rows: what each puts into the prompt, what is cut out, and retrieval measured by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unifashion.evidence.rag_systems import (ASKED, BESIDE, CORE, FIXED, NO_STAGE_0, NOT_RECALLED, OURS,
                                             TEXT_ONLY, TRAINED, Asking, cut_out, examples_for, garments_for,
                                             judged_edits, left_by, lessons_for, load_inversion, poses_for,
                                             save_inversion, staged)
from unifashion.evidence.retrieval_quality import found_for, quality_rows
from unifashion.models.foundations import train_tokenizer
from unifashion.rag.model import JOINT, Edits, Recalled
from unifashion.wardrobe.garments import Garment

TOKENIZER = train_tokenizer(["a blue striped shirt with short sleeves"] * 3, 90)
PEOPLE = SimpleNamespace(names=["p", "q"], garment_ids=["own p", "own q"],
                         categories=["dresses", "upper_body"],
                         phrases=[("a blue shirt", "sleeves"), ("striped",)])
DATABASE = {"dresses": list("abcd"), "upper_body": list("efgh")}
FOUND = [list("abc"), list("efg")]


def test_every_row_asks_an_editor_that_is_trained():
    assert {own.editor for own in ASKED.values()} == set(TRAINED) and set(CORE) <= set(TRAINED)
    counts = [ASKED[f"{OURS}, {n} retrieved"].count for n in range(4)]
    assert counts == [0, 1, 2, 3]
    assert TRAINED[TEXT_ONLY].most == 0
    assert all(own.count <= TRAINED[own.editor].most for own in ASKED.values())


def test_what_is_put_into_a_prompt():
    assert garments_for(Asking(count=2), PEOPLE, FOUND, DATABASE) == [["a", "b"], ["e", "f"]]
    assert garments_for(Asking(count=1, garments="own"), PEOPLE, FOUND, DATABASE) == [["own p"], ["own q"]]
    among = garments_for(Asking(garments="own and retrieved"), PEOPLE, FOUND, DATABASE)
    assert among == [["own p", "a", "b"], ["own q", "e", "f"]]
    lot = garments_for(Asking(garments="random"), PEOPLE, FOUND, DATABASE)
    assert lot == garments_for(Asking(garments="random"), PEOPLE, FOUND, DATABASE)
    for own, category in zip(lot, PEOPLE.categories):
        assert len(set(own)) == 3 and set(own) <= set(DATABASE[category])
    lots = [garments_for(Asking(garments="random"), PEOPLE, FOUND, DATABASE, seed) for seed in range(9)]
    assert len({str(own) for own in lots}) > 1


def test_all_at_once_makes_as_many_steps_as_two_stages():
    first, second = 1000, 1000 * JOINT
    assert TRAINED["no first stage"].longer * second == pytest.approx(first + second)
    assert {own.longer for name, own in TRAINED.items() if name != "no first stage"} == {1}


def test_keypoints_own_none_and_anothers():
    pose = np.arange(4.).reshape(2, 2, 1, 1)
    assert np.array_equal(poses_for(Asking(), pose), pose)
    assert not poses_for(Asking(pose="none"), pose).any()
    assert np.array_equal(poses_for(Asking(pose="other"), pose)[0], pose[1])


def test_a_row_without_text_keeps_its_garments():
    tokens = {name: np.zeros((3, 4)) for name in "abcdefgh"}
    parts = {"pose": np.zeros((2, 18, 4, 3))}
    silent = examples_for(Asking(text=False), PEOPLE, parts, FOUND, DATABASE, tokens, TOKENIZER)[0]
    assert int(silent["places"].sum()) == 48 and silent["places"][1]  # garments right behind the beginning
    spoken = examples_for(Asking(), PEOPLE, parts, FOUND, DATABASE, tokens, TOKENIZER)[0]
    assert int(spoken["places"].sum()) == 48 and not spoken["places"][1]


def test_editors_that_differ_only_later_share_stage_0():
    shared = {name for name in TRAINED if left_by(name, 0) == "alone"}
    assert shared == {name for name, how in TRAINED.items() if 0 in how.stages} - {BESIDE}
    own = {(name, stage) for name in TRAINED for stage in (1, 2) if left_by(name, stage)}
    assert own == {(NOT_RECALLED, 1)} and left_by(NOT_RECALLED, 1) != left_by(NOT_RECALLED, 0)
    assert TRAINED[NO_STAGE_0].stages == (1, 2) and not left_by(NO_STAGE_0, 0)


def test_without_a_stage_0_nothing_is_recalled():
    tokens = {name: np.zeros((3, 4)) for name in ["own p", "own q", *"abcdefgh"]}
    given = PEOPLE, {"pose": np.zeros((2, 18, 4, 3))}, FOUND, tokens, TOKENIZER
    shares = {}
    for name, how in TRAINED.items():
        data = lessons_for(replace(how, sketched=False), how.stages[-1], *given)
        shares[name] = data.share if isinstance(data, Recalled) else 0
    assert {name for name, share in shares.items() if share} == {OURS, BESIDE, *FIXED}
    assert shares[OURS] == 0.5
    assert staged(TRAINED[OURS], 100) == TRAINED[OURS]
    assert isinstance(lessons_for(staged(TRAINED[OURS], 0), 1, *given), Edits)


def test_what_a_shared_stage_leaves_is_read_back(tmp_path):
    torch.manual_seed(0)
    one, other = (SimpleNamespace(inversion=torch.nn.Linear(3, 2)) for _ in range(2))
    save_inversion(one, tmp_path, "alone")
    load_inversion(other, tmp_path, "alone")
    assert torch.equal(one.inversion.weight, other.inversion.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_inversion(SimpleNamespace(inversion=torch.nn.Linear(4, 2)), tmp_path, "alone")


@pytest.mark.parametrize("name", [OURS, BESIDE])
def test_before_the_first_stage_the_worn_garment_stands_alone(name):
    tokens = {name: np.full((3, 4), place) for place, name in enumerate(["own p", "own q", *"abcdefgh"])}
    given = PEOPLE, {"pose": np.zeros((2, 18, 4, 3))}, FOUND, tokens, TOKENIZER
    how = TRAINED[name]
    alone, mixed = (lessons_for(how, stage, *given) for stage in (0, 1))
    first = mixed.later
    for row in range(2):
        own = alone[row]
        assert own["count"] == 1 and np.array_equal(own["garments"][0], tokens[PEOPLE.garment_ids[row]])
        inside = 16 * min(1, how.within)
        assert int(own["places"].sum()) == inside
        words = own["ids"][~own["places"]]
        assert set(words.tolist()) == set(alone.empty.tolist())  # begin and end of an empty text
    assert np.array_equal(first[0]["garments"], [tokens[name] for name in FOUND[0]])
    assert {int(first[0]["count"]) for _ in range(80)} == {0, 1, 2, 3}
    assert (first[0]["ids"] != alone.empty).any()


def test_what_is_cut_out_does_not_see_the_room():
    picture = np.zeros((1, 32, 24, 3), np.uint8)
    mask = np.zeros((1, 32, 24), bool)
    mask[0, 8:24, 6:18] = True
    picture[mask] = 90
    other = np.where(mask[..., None], picture, np.uint8(200))
    assert np.array_equal(cut_out(picture, mask), cut_out(other, mask))
    assert (cut_out(picture, mask) == 90).all()  # the box has the picture's aspect, and fills it
    with pytest.raises(ValueError, match="picture 0: an empty mask"):
        cut_out(picture, np.zeros_like(mask))


def judges_of_colour():
    "A scorer that sees mean colours, a reader that sees nothing to name."
    def images(pictures):
        means = np.asarray(pictures, float).mean((1, 2)) + 1
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def texts(texts):
        return images(np.full((len(texts), 2, 2, 3), 9))
    return SimpleNamespace(scorer=SimpleNamespace(images=images, texts=texts))


def test_clip_i_is_the_mean_over_the_garments_of_the_prompt(monkeypatch):
    monkeypatch.setattr("unifashion.evidence.rag_systems.judged", lambda *given: {})
    pictures, masks = np.full((2, 8, 6, 3), 200, np.uint8), np.ones((2, 8, 6), bool)
    own = SimpleNamespace(truth=pictures, texts=["a", "b"], masks=masks, garment_ids=["red", "red"])
    looks = {"same": np.full(3, 3 ** -0.5), "red": np.array([1., 0, 0])}
    told = judged_edits(pictures, own, {}, [["same", "red"], []], ["same", "red"], looks,
                        judges_of_colour())
    assert told["CLIP-I retrieved"][0] == pytest.approx(50 * (1 + 3 ** -0.5), rel=1e-4)
    assert np.isnan(told["CLIP-I retrieved"][1])
    assert told["self-hit"].tolist() == [1, 0]  # in the second prompt is nothing
    assert told["CLIP-I first"] == pytest.approx([100, 100 * 3 ** -0.5], rel=1e-4)
    assert told["CLIP-I true"] == pytest.approx([100, 100])


class Search:
    index = SimpleNamespace(names=list("efgh"))

    def search(self, texts, k, groups, excluded):
        names = [[name for name in "efgh" if name not in own][:k] for own in excluded]
        return [[SimpleNamespace(name=name) for name in own] for own in names]


def test_the_own_garment_is_no_answer_and_too_few_are_named():
    asking = SimpleNamespace(names=["p"], garment_ids=["e"], categories=["upper_body"], phrases=[("a",)])
    assert found_for(Search(), asking, 3) == [["f", "g", "h"]]
    with pytest.raises(ValueError, match="p: 3 garments of 4 in the database"):
        found_for(Search(), asking, 4)


def test_quality_by_phrases_and_by_attributes():
    database = SimpleNamespace(garment_ids=list("efgh"), categories=["upper_body"] * 4,
                               phrases=[("x",), ("a",), ("y",), ("z",)])
    asking = SimpleNamespace(names=["p"], garment_ids=["e"], categories=["upper_body"], phrases=[("a", "b")])
    blue = Garment("t-shirt", "blue", sleeve="short", neckline="crew")
    garments = {"e": blue, "f": Garment("shirt", "red"), "g": blue, "h": Garment("shirt", "red")}
    rows = quality_rows(asking, [["f", "g", "h"]], Search(), database, garments, ks=(1, 3, 10))
    told = {(row["relevance"], row["k"]): row for row in rows}
    assert len(told) == 4  # ten were not found
    assert told["a phrase in common", 1]["precision"] == 100
    assert told["a phrase in common", 1]["precision_by_chance"] == pytest.approx(33.33)
    assert told["four attributes in common", 1]["precision"] == 0
    assert told["four attributes in common", 3]["recall"] == 100
