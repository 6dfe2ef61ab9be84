"""Asking: memory is counted to the byte, and what was painted is not painted again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import unifashion.evidence.rag_questions as asking
from unifashion.evidence.rag_questions import TensorMemory, asking_costs, by_way, contradictions, painted_once
from unifashion.evidence.rag_questions import shortened
from unifashion.ground.core import Rag


def test_new_tensors_count_once_while_anybody_holds_them():
    before = torch.ones(100)
    with TensorMemory() as memory:
        own = before + 1            # 400 bytes
        shared = own.view(10, 10)   # the same 400
        turned = shared.t()
        before.view(10, 10)         # was there before
        del own, shared
        assert memory.now == 400
        del turned
        assert memory.now == 0
        torch.zeros(1000)
    assert memory.most == 4000 and memory.now == 0


def test_parts_of_a_tuple_count():
    with TensorMemory() as memory:
        kept = torch.ones(6, dtype=torch.float64).split(3)   # one storage of 48 bytes
        values, places = torch.sort(kept[0])                 # 24 and 24 more
    assert memory.now == memory.most == 96


@pytest.fixture
def painted(monkeypatch):
    "Counts the rows that are painted; a picture is its row's number and its garments'."
    asked = []

    def paint(editor, data, rows, *more, **how):
        asked.append(list(rows))
        return np.array([[row, len(data.found[row][:data.counts[row]])] for row in rows])
    monkeypatch.setattr(asking, "painted_rows", paint)
    return asked


def test_only_what_is_new_is_painted(painted):
    before, editor = {}, object()
    first = SimpleNamespace(found=[["a", "b"], ["c", "d"]], counts=[2, 2])
    other = SimpleNamespace(found=[["a", "x"], ["c", "d"]], counts=[2, 2])
    fewer = SimpleNamespace(found=[["a", "x"], ["c", "d"]], counts=[1, 0])
    assert painted_once(before, editor, first).tolist() == [[0, 2], [1, 2]]
    painted_once(before, editor, first)
    painted_once(before, editor, other)
    assert painted_once(before, editor, fewer).tolist() == [[0, 1], [1, 0]]
    assert painted == [[0, 1], [0], [0, 1]]


def test_costs_are_asked_of_no_more_people_than_there_are(painted):
    class Three(SimpleNamespace):
        def __len__(self): return 3
    few = Three(found=[["a"]] * 3, counts=[1] * 3)
    costs = asking_costs({"one": (None, few)}, None, Rag(), repeats=2)
    assert painted == [[0, 1, 2]] * 3 and len(costs["one"]["seconds"]) == 2
    painted.clear()
    asking_costs({"one": (None, few)}, None, Rag(), people=2, repeats=1)
    assert painted == [[0, 1]] * 2


class Passing:
    "An editor that nobody else holds: its place in memory is soon another's."


def test_editors_do_not_share_pictures_even_where_one_is_gone(painted):
    before = {}
    data = SimpleNamespace(found=[["a"]], counts=[1])
    for _ in range(5):
        painted_once(before, Passing(), data)
    assert painted == [[0]] * 5


GARMENTS = {f"{color}{k}": SimpleNamespace(kind="shirt", color=color, sleeve="", pattern="")
            for color in ("red", "blue", "green") for k in range(2)}
GARMENTS |= {"d1": SimpleNamespace(kind="dress", color="red", sleeve="", pattern="")}
PEOPLE = SimpleNamespace(categories=["upper_body"] * 3 + ["dresses"])
DATABASE = {"upper_body": list(GARMENTS)[:-1], "dresses": ["d1"]}


def test_shorter_cases_are_the_same_questions():
    whole = contradictions("color", PEOPLE, DATABASE, GARMENTS)
    assert sorted(case.person for case in whole) == [0, 1, 2]  # nothing contradicts the only dress
    assert all(len(set(case.values)) == 3 for case in whole)
    for long, short in zip(whole, shortened(whole, 2), strict=True):
        assert (short.person, short.text) == (long.person, long.text)
        assert (short.garments, short.values) == (long.garments[:2], long.values[:2])


def test_two_are_asked_where_no_three_differ():
    few = {"upper_body": ["red0", "blue0"], "dresses": ["d1"]}
    assert {len(case.garments) for case in contradictions("color", PEOPLE, few, GARMENTS)} == {2}
    assert contradictions("kind", PEOPLE, few, GARMENTS) == []


def test_a_way_that_is_none_is_named():
    with pytest.raises(ValueError, match="'shouted' is no way of asking"):
        by_way("shouted", {"all of them": None}, (), [["a"]], [[1.]], {}, None)
