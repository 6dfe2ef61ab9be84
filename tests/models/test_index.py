"""The index: exact search inside a group, names left out, and that nothing foreign or broken is loaded."""

import numpy as np
import pytest

from unifashion.ground.files import load_arrays, save_arrays
from unifashion.models.index import Hit, Index, load_index, nearest, save_index


def unit(*angles):
    return np.stack([np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))], 1).astype(np.float32)


@pytest.fixture
def index():
    index = Index("space", 2)
    index.add(["c", "a", "b"], unit(0, 60, 90), ["dresses", "upper_body", "upper_body"])
    return index


def test_scores_are_cosines_best_first(index):
    assert nearest(index, unit(30), 3)[0] == [Hit("a", pytest.approx(np.cos(np.pi / 6))),
                                              Hit("c", pytest.approx(np.cos(np.pi / 6))),
                                              Hit("b", pytest.approx(0.5))]


def test_equal_scores_do_not_depend_on_the_order_of_the_database(index):
    other = Index("space", 2)
    other.add(["a", "b", "c"], unit(60, 90, 0), ["upper_body", "upper_body", "dresses"])
    first, second = (nearest(own, unit(30), 3)[0] for own in (other, index))
    assert [hit.name for hit in first] == [hit.name for hit in second]


def test_a_group_and_names_that_are_left_out(index):
    asked = unit(0, 0)
    found = nearest(index, asked, 2, ["upper_body", "dresses"], [{"a"}, ()])
    assert [[hit.name for hit in own] for own in found] == [["b"], ["c"]]
    assert nearest(index, unit(0), 1, ["dresses"], [["c"]]) == [[]]  # nobody is left


@pytest.mark.parametrize("call, words", [
    (lambda index: nearest(Index("space", 2), unit(0), 1), "the index is empty"),
    (lambda index: nearest(index, unit(0), 0), "from 1; here: 0"),
    (lambda index: nearest(index, unit(0), 1, ["hats"]), "no 'hats'; there are dresses, upper_body"),
    (lambda index: nearest(index, 2 * unit(0), 1), "query 0.*length 2"),
    (lambda index: nearest(index, np.full((1, 2), np.nan), 1), "length nan"),
    (lambda index: index.add(["d"], np.ones((1, 3))), r"wanted are \(1, 2\)"),
    (lambda index: index.add(["d", "d"], unit(1, 2)), "'d' is in this index already"),
    (lambda index: index.add(["d"], unit(1), []), "1 names and 0 groups"),
    (lambda index: index.remove(["z"]), "'z' is not in this index of 3"),
])
def test_mistakes_are_named(call, words, index):
    before = index.fingerprint
    with pytest.raises(ValueError, match=words):
        call(index)
    assert index.fingerprint == before


def test_removed_and_added_again_it_is_the_same_garment(index):
    index.remove(["a"])
    assert [hit.name for hit in nearest(index, unit(60), 3)[0]] == ["b", "c"]
    index.add(["a"], unit(60), ["upper_body"])
    assert nearest(index, unit(60), 1)[0][0].name == "a"


def test_stored_and_loaded(index, tmp_path):
    save_index(index, tmp_path / "deep" / "index.safetensors")
    again = load_index(tmp_path / "deep" / "index.safetensors", "space")
    assert again.fingerprint == index.fingerprint and again.names == index.names
    assert nearest(again, unit(10), 3) == nearest(index, unit(10), 3)


def test_an_empty_one_is_stored_too(tmp_path):
    save_index(Index("space", 5), tmp_path / "index.safetensors")
    assert len(load_index(tmp_path / "index.safetensors")) == 0


def test_another_space_a_changed_file_and_none_are_refused(index, tmp_path):
    path = tmp_path / "index.safetensors"
    with pytest.raises(FileNotFoundError, match="no index at"):
        load_index(path)
    save_index(index, path)
    with pytest.raises(ValueError, match="built with space; the retriever here is other"):
        load_index(path, "other")
    kept = load_arrays(path)
    save_arrays(path, {**kept, "vectors": kept["vectors"][::-1].copy()})
    with pytest.raises(ValueError, match="do not belong together"):
        load_index(path)
    save_arrays(path, {"vectors": kept["vectors"]})
    with pytest.raises(ValueError, match="is no index: it has no fingerprint"):
        load_index(path)
