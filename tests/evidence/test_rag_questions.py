"""Asking: memory is counted to the byte, and what was painted is not painted again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import unifashion.evidence.rag_questions as asking
from unifashion.evidence.rag_questions import TensorMemory, by_way, painted_once


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

    def paint(editor, data, rows, **how):
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


def test_two_editors_do_not_share_pictures(painted):
    before = {}
    data = SimpleNamespace(found=[["a"]], counts=[1])
    one, two = object(), object()
    painted_once(before, one, data)
    painted_once(before, two, data)
    assert painted == [[0], [0]]


def test_a_way_that_is_none_is_named():
    with pytest.raises(ValueError, match="'shouted' is no way of asking"):
        by_way("shouted", {"all of them": None}, (), [["a"]], [[1.]], {}, None)
