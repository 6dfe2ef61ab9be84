"""The catalogue: answers as by brute force, changes, kills at any moment, changed files, FAISS, Milvus."""

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from unifashion.models import catalogue_files as K
from unifashion.models import catalogue_index as C
from unifashion.models import fast_search as F
from unifashion.models import milvus_catalogue as M
from unifashion.models.catalogue_index import CatalogueIndex
from unifashion.models.index import Hit

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks a process and kills it")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def items_of(n, seed=0, n_query=4, width=8):
    return unit(np.random.default_rng(seed).normal(size=(n, n_query, width)))


def queries_of(n, seed=1, width=8):
    return unit(np.random.default_rng(seed).normal(size=(n, width)))


def names_of(n, first=0):
    return [f"{number:03d}" for number in range(first, first + n)]


def by_force(names, vectors, query, k):
    "Names and scores, best first, equal ones in order."
    scores = (vectors.astype(np.float16).astype(np.float64) @ query.astype(np.float64)).max(1)
    best = np.argsort(-scores, kind="stable")[:k]
    return [(names[row], pytest.approx(scores[row], abs=1e-6)) for row in best]


@pytest.fixture
def shop(tmp_path):
    return CatalogueIndex.build(tmp_path / "shop", "space", names_of(50), items_of(50))


def files(catalogue):
    return {path.name for path in catalogue.folder.iterdir() if not path.name.startswith(".lock")}


def test_answers_are_those_of_brute_force(shop, monkeypatch):
    monkeypatch.setattr(C, "NUMBERS", 7 * 4 * 8)  # blocks of seven items
    monkeypatch.setattr(C, "CHUNK", 20)
    monkeypatch.setattr(C, "SPARE", 2)
    shop.append(names_of(30, 50), items_of(30, 2))
    shop.delete(["003", "070"])
    left = [n for n in range(80) if n not in (3, 70)]
    everything = np.concatenate([items_of(50), items_of(30, 2)])[left]
    names = [names_of(80)[n] for n in left]
    queries = queries_of(6)
    for k in (1, 5, 78, 500):
        for query, found in zip(queries, shop.search(queries, k)):
            assert [tuple(hit) for hit in found] == by_force(names, everything, query, k)
    assert CatalogueIndex.load(shop.folder, "space").search(queries, 5) == shop.search(queries, 5)


def test_one_query_at_a_time_gives_what_many_at_once_give(shop):
    queries = queries_of(9)
    assert shop.search(queries, 7) == [shop.search(query[None], 7)[0] for query in queries]


def test_equal_items_come_in_the_order_in_which_they_were_added(tmp_path, monkeypatch):
    monkeypatch.setattr(C, "NUMBERS", 3 * 4 * 8)
    monkeypatch.setattr(C, "CHUNK", 5)
    vectors = items_of(1).repeat(40, 0)
    names = [str(n) for n in random.Random(0).sample(range(40), 40)]
    shop = CatalogueIndex.build(tmp_path / "shop", "space", names[:17], vectors[:17])
    shop.append(names[17:], vectors[17:])
    for k in (3, 21, 40):
        found = shop.search(vectors[0, :1], k)[0]
        assert [hit.name for hit in found] == names[:k] and len({hit.score for hit in found}) == 1


def test_deleting_compacting_and_adding_again(shop):
    queries = queries_of(4)
    shop.delete(names_of(20, 10))
    before = shop.search(queries, 50)
    assert len(shop) == 30 and len(before[0]) == 30
    shop.compact()
    assert len(shop.alive) == len(shop) == 30 and shop.search(queries, 50) == before
    shop.append(["010"], items_of(50)[10:11])  # a name that was deleted is free again
    whole = CatalogueIndex.load(shop.folder)
    assert len(whole) == 31 and list(whole.places())[-1] == "010"
    whole.check()
    assert files(whole) == {K.MANIFEST} | {f"{own.name}.{end}" for own in whole.manifest.segments
                                           for end in ("npy", "json")}


def test_a_catalogue_without_items_says_so_and_can_be_filled(shop):
    shop.delete(names_of(50))
    shop.compact()
    assert len(shop) == 0 and files(shop) == {K.MANIFEST}
    with pytest.raises(ValueError, match="the catalogue is empty"):
        shop.search(queries_of(1), 1)
    shop.append(["x"], items_of(1))
    assert shop.search(queries_of(1), 3)[0][0].name == "x"


def test_a_copy_is_compact_and_its_own(shop, tmp_path):
    shop.delete(["000"])
    copy = shop.save(tmp_path / "copy")
    assert copy.search(queries_of(3), 9) == shop.search(queries_of(3), 9) and len(copy.alive) == 49
    copy.delete(["001"])
    assert len(CatalogueIndex.load(shop.folder)) == 49
    with pytest.raises(FileExistsError, match="holds a catalogue already"):
        shop.save(tmp_path / "copy")


def test_a_fingerprint_follows_what_is_searched(tmp_path):
    made = [CatalogueIndex.build(tmp_path / str(n), "space", names_of(5), items_of(5)) for n in range(2)]
    assert made[0].fingerprint == made[1].fingerprint
    seen = {made[0].fingerprint}
    for change in (lambda: made[0].append(["x"], items_of(1, 9)), lambda: made[0].delete(["001"]),
                   made[0].compact):
        change()
        assert made[0].fingerprint not in seen
        seen.add(made[0].fingerprint)
    other = CatalogueIndex.build(tmp_path / "other", "another", names_of(5), items_of(5))
    assert other.fingerprint != made[1].fingerprint


def test_a_writer_works_upon_what_another_left(shop):
    other = CatalogueIndex.load(shop.folder)
    shop.append(["x"], items_of(1, 5))
    other.append(["y"], items_of(1, 6))
    assert list(other.places())[-2:] == ["x", "y"]
    with pytest.raises(ValueError, match="'x' is in this catalogue already"):
        other.append(["x"], items_of(1, 7))
    shop.delete(["y"])  # which it has never seen
    assert len(CatalogueIndex.load(shop.folder)) == 51


def test_what_a_writer_left_behind_is_ignored_and_removed(shop):
    (shop.folder / ".vectors.77.tmp~").write_bytes(b"half")
    (shop.folder / "0123456789abcdef.npy").write_bytes(b"whole, but not named")
    (shop.folder / "notes.txt").write_text("mine")
    again = CatalogueIndex.load(shop.folder)
    assert again.search(queries_of(1), 3) == shop.search(queries_of(1), 3)
    again.delete(["000"])
    assert not {".vectors.77.tmp~", "0123456789abcdef.npy"} & files(again) and "notes.txt" in files(again)


def test_a_reader_meets_a_writer_that_tidies_up(shop, monkeypatch):
    "The manifest is read, then its files go, because another process compacts."
    stale = K.Manifest.read(shop.folder)
    shop.delete(["000"])
    shop.compact()
    told = iter([stale])
    read = K.Manifest.read
    monkeypatch.setattr(K.Manifest, "read", staticmethod(lambda folder: next(told, None) or read(folder)))
    assert len(CatalogueIndex.load(shop.folder)) == 49


def test_a_failed_writing_changes_nothing(shop, monkeypatch):
    def full(self, folder):
        raise OSError("no space left on device")
    before = shop.fingerprint
    monkeypatch.setattr(K.Manifest, "write", full)
    for change in (lambda: shop.append(["x"], items_of(1)), lambda: shop.delete(["000"]), shop.compact):
        with pytest.raises(OSError, match="no space"):
            change()
        assert shop.fingerprint == before and len(shop) == 50 and len(shop.search(queries_of(1), 99)[0]) == 50
    monkeypatch.undo()
    assert CatalogueIndex.load(shop.folder).fingerprint == before


def vectors_of(name):
    "An item's vectors follow from its name."
    return items_of(1, int(name))


def write_on(folder):
    "Rounds without end: ten items are added, the first five of them deleted, then all is compacted."
    shop = CatalogueIndex.load(folder)
    while True:
        last = max(map(int, shop.places()), default=-1)
        first = last - last % 10
        ten = [str(n) for n in range(first, first + 10)]
        if last >= 0 and ten[0] in shop.places():
            shop.delete(ten[:5])
        elif len(shop.manifest.segments) > 3:
            shop.compact()
        else:
            ten = [str(n) for n in range(first + 10, first + 20)]
            shop.append(ten, np.concatenate([vectors_of(name) for name in ten]))


def is_whole(names):
    "Whether these are the items between two steps of `write_on`."
    rounds = max(names) // 10
    done = {n for n in range(10 * rounds) if n % 10 > 4}
    return names - done in ({*range(10 * rounds, 10 * rounds + 10)},
                            {*range(10 * rounds + 5, 10 * rounds + 10)}) and done <= names


@linux
def test_killed_at_any_moment_it_is_the_old_one_or_the_new(tmp_path):
    first = [str(n) for n in range(10)]
    folder = tmp_path / "shop"
    CatalogueIndex.build(folder, "space", first, np.concatenate([vectors_of(name) for name in first]))
    context = multiprocessing.get_context("fork")
    moments, states = random.Random(5), set()
    for _ in range(15):
        writer = context.Process(target=write_on, args=(folder,))
        writer.start()
        time.sleep(moments.uniform(0.01, 0.09))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        shop = CatalogueIndex.load(folder, "space")
        shop.check()
        assert is_whole({int(name) for name in shop.places()})
        for name, place in list(shop.places().items())[-10:]:
            assert (shop.vectors_at(np.array([place])) == vectors_of(name).astype(np.float16)).all()
        states.add(shop.fingerprint)
    assert len(states) > 1  # it was killed at work
    shop.append(["1000000"], vectors_of("1000000"))  # the lock of a killed writer is free
    assert not [name for name in files(shop) if name.endswith("tmp~")]


def test_states_between_two_steps_are_told_from_others():
    assert is_whole({*range(10)}) and is_whole({5, 6, 7, 8, 9, *range(10, 20)})
    for names in ({*range(7)}, {*range(20)}, {6, 7, 8, 9, *range(10, 20)}):
        assert not is_whole(names)


@pytest.mark.parametrize("call, words", [
    (lambda shop: shop.search(queries_of(1), 0), "from 1; here: 0"),
    (lambda shop: shop.search(np.zeros((0, 8), np.float32)), r"queries of shape \(0, 8\)"),
    (lambda shop: shop.search(queries_of(1)[0]), r"queries of shape \(8,\); wanted are \(1 or more, 8\)"),
    (lambda shop: shop.search(queries_of(2, width=5)), r"wanted are \(1 or more, 8\)"),
    (lambda shop: shop.search(queries_of(3) * np.array([[1], [3], [1]])), "query 1 has length 3"),
    (lambda shop: shop.search(np.full((1, 8), np.nan)), "query 0 has length nan"),
    (lambda shop: shop.append([], np.zeros((0, 4, 8))), "nothing to add"),
    (lambda shop: shop.append(["x"], items_of(1)[:, :3]), r"\(1, 3, 8\); wanted are \(1, 4, 8\)"),
    (lambda shop: shop.append(["x"], items_of(2)), "1 names and vectors of shape"),
    (lambda shop: shop.append(["x", "x"], items_of(2)), "'x' is in this catalogue already"),
    (lambda shop: shop.append(["049"], items_of(1)), "'049' is in this catalogue already: delete it first"),
    (lambda shop: shop.append(["x", "y"], items_of(2) * np.array([1, 2])[:, None, None]),
     "'y': its vector 0 has length 2"),
    (lambda shop: shop.delete(["000", "z"]), "'z' is not in this catalogue of 50"),
    (lambda shop: CatalogueIndex.load(shop.folder, "a map"), "built with space; the model here is a map"),
    (lambda shop: CatalogueIndex.build(shop.folder / "x", "space", ["a"], np.ones((1, 8))),
     r"shape \(1, 8\); wanted"),
])
def test_what_cannot_be_is_refused_and_changes_nothing(shop, call, words):
    before = files(shop)
    with pytest.raises(ValueError, match=words):
        call(shop)
    assert files(shop) - {"x"} == before and CatalogueIndex.load(shop.folder).fingerprint == shop.fingerprint


def test_no_catalogue_and_one_too_many(shop, tmp_path):
    with pytest.raises(FileNotFoundError, match="no catalogue at .*: build one"):
        CatalogueIndex.load(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="load it and append"):
        CatalogueIndex.build(shop.folder, "space", ["a"], items_of(1))


def spoil(path, kind):
    data = path.read_bytes()
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-9], "longer": data + b"1", "a bit": data[:-2] + b"~" + data[-1:],
                          "empty": b"", "another": b"{}"}[kind])


@pytest.mark.parametrize("pattern, kind, error, words", [
    ("*.npy", "cut", ValueError, "has changed since it was written"),
    ("*.npy", "empty", ValueError, "has changed since it was written"),
    ("*.npy", "another", ValueError, "has changed since it was written"),
    ("*.npy", "gone", FileNotFoundError, "is gone, which catalogue.json names"),
    (16 * "[0-9a-f]" + ".json", "a bit", ValueError, "has changed since it was written"),
    (16 * "[0-9a-f]" + ".json", "gone", FileNotFoundError, "is gone, which"),
    (K.MANIFEST, "cut", ValueError, "is no manifest of a catalogue"),
    (K.MANIFEST, "another", ValueError, "is no manifest of a catalogue"),
    (K.MANIFEST, "gone", FileNotFoundError, "build one"),
])
def test_a_damaged_file_is_named(shop, pattern, kind, error, words):
    spoil(next(shop.folder.glob(pattern)), kind)
    with pytest.raises(error, match=words):
        CatalogueIndex.load(shop.folder)


def test_a_byte_that_changed_is_found_by_reading_all(shop):
    spoil(next(shop.folder.glob("*.npy")), "a bit")
    with pytest.raises(ValueError, match="npy has changed since"):
        CatalogueIndex.load(shop.folder).check()


def test_a_manifest_of_another_hand_is_refused(shop):
    path = shop.folder / K.MANIFEST
    told = json.loads(path.read_text())
    told["segments"][0]["deleted"] = [0]
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="changed by another hand"):
        CatalogueIndex.load(shop.folder)


# FAISS

@pytest.fixture
def large(tmp_path):
    "Items about centres, so that lists mean something."
    pytest.importorskip("faiss", reason="FAISS is not installed: pip install faiss-cpu")
    rng = np.random.default_rng(3)
    axes = rng.normal(size=(6, 16))
    vectors = unit(rng.normal(size=(900, 1, 6)) @ axes + 0.3 * rng.normal(size=(900, 4, 16)))
    asked = unit(rng.normal(size=(40, 6)) @ axes)
    return CatalogueIndex.build(tmp_path / "large", "space", names_of(900), vectors), asked


def recall(found, wanted):
    return np.mean([hit in own for own, exact in zip(found, wanted) for hit in exact])


def test_the_fast_form_finds_nearly_all_with_the_same_scores(large):
    shop, asked = large
    fast = F.FastSearch.build(shop)
    fast.index.nprobe = fast.index.nlist // 2
    assert recall(fast.search(asked, 10), shop.search(asked, 10)) > 0.95
    assert fast.search(asked, 3) == fast.search(asked, 3)
    assert fast.search(asked, 100) == shop.search(asked, 100)  # so many are searched exactly


def test_the_fast_form_finds_no_deleted_item_and_fetches_more(large):
    shop, asked = large
    fast = F.FastSearch.build(shop)
    fast.index.nprobe = fast.index.nlist
    gone = {hit.name for own in shop.search(asked, 5) for hit in own}
    shop.delete(gone)
    found = fast.search(asked, 10)
    assert not gone & {hit.name for own in found for hit in own}
    assert recall(found, shop.search(asked, 10)) > 0.95


def test_where_the_codes_name_too_few_the_exact_search_answers(large, monkeypatch):
    shop, asked = large
    fast = F.FastSearch.build(shop)
    monkeypatch.setattr(fast.index, "search", lambda asked, n: (None, np.full((len(asked), n), -1)))
    assert fast.search(asked, 10) == shop.search(asked, 10)


def test_the_fast_form_is_loaded_extended_or_built(large):
    shop, asked = large
    assert F.open_fast(shop)[1] == "built"
    loaded, how = F.open_fast(CatalogueIndex.load(shop.folder))
    assert how == "loaded" and loaded.search(asked, 5) == F.FastSearch.build(shop).search(asked, 5)
    shop.append(["x"], shop.vectors_at(np.array([7])))
    with pytest.raises(ValueError, match="open_fast it again"):
        F.FastSearch(shop, loaded.index, 900, loaded.covered).search(asked, 5)
    extended, how = F.open_fast(shop)
    query = shop.vectors_at(np.array([7]))[0, 2:3].astype(np.float32)
    assert how == "extended" and [hit.name for hit in extended.search(query, 2)[0]] == ["007", "x"]
    shop.compact()
    assert F.open_fast(shop)[1] == "built"
    shop.append([f"n{n}" for n in range(905)], items_of(905, 4, 4, 16))
    assert F.open_fast(shop)[1] == "built"  # more than twice what the centres were learned from
    assert len(list(shop.folder.glob("*.faiss"))) == 1


def test_a_changed_index_of_codes_is_refused_and_a_lost_one_made_again(large):
    shop, _ = large
    F.open_fast(shop)
    path = next(shop.folder.glob("*.faiss"))
    spoil(path, "a bit")
    with pytest.raises(ValueError, match="faiss has changed since it was written: remove it"):
        F.open_fast(shop)
    path.unlink()
    assert F.open_fast(shop)[1] == "built"


def test_few_items_need_no_fast_form(shop):
    with pytest.raises(ValueError, match="50 items of 4 vectors are few"):
        F.FastSearch.build(shop)


def test_without_faiss_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        F.open_faiss()


# Milvus

def test_a_closed_port_is_said_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        with pytest.raises(ConnectionError, match=r"no Milvus answers at 127.0.0.1:\d+"):
            M.MilvusCatalogue.load(f"http://127.0.0.1:{taken.getsockname()[1]}", "space")


def test_without_its_client_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ImportError, match="pip install pymilvus milvus-lite"):
        M.open_client("shop.db")


def test_rows_are_reduced_to_the_best_of_each_item():
    rows = [("b", 0.5), ("a", 0.5), ("b", 0.7), ("c", 0.1)]
    assert M.best_of_rows(rows, 2) == [Hit("b", 0.7), Hit("a", 0.5)]


class Rows:
    "A stand-in for Milvus: rows in memory. Its filters are read as Python reads them."

    def __init__(self):
        self.own = {}

    def create(self, collection, width):
        self.own[collection] = []

    def taken(self, collection, wanted):
        return [row for row in self.own[collection] if eval(wanted or "True", {}, row)]

    def has_collection(self, collection):
        return collection in self.own

    def list_collections(self):
        return list(self.own)

    def describe_collection(self, collection):
        return {"fields": [{"name": "upload"}, {"name": "vector", "params": {"dim": "8"}}]}

    def load_collection(self, collection):
        assert collection in self.own

    def insert(self, collection, data):
        assert {"name", "query", "upload", "vector"} == set(data[0])
        self.own[collection] += data

    def delete(self, collection, filter):
        gone = self.taken(collection, filter)
        self.own[collection] = [row for row in self.own[collection] if row not in gone]

    def query(self, collection, filter, output_fields, limit=None):
        found = self.taken(collection, filter)[:limit]
        return [{"count(*)": len(found)}] if output_fields == ["count(*)"] else found

    def search(self, collection, data, limit, output_fields, search_params, filter):
        answers = []
        for query in data:
            scored = [{"entity": row, "distance": float(np.dot(row["vector"], query))}
                      for row in self.taken(collection, filter)]
            answers.append(sorted(scored, key=lambda own: -own["distance"])[:limit])
        return answers


@pytest.fixture(params=["stand-in", "milvus-lite"])
def database(request, tmp_path, monkeypatch):
    "An address under which `MilvusCatalogue` builds and loads."
    if request.param == "milvus-lite":
        for name in ("pymilvus", "milvus_lite"):
            pytest.importorskip(name, reason="Milvus is not installed: pip install pymilvus milvus-lite")
    else:
        rows = Rows()
        monkeypatch.setattr(M, "open_client", lambda uri: rows)
        monkeypatch.setattr(M, "new_collection", Rows.create)
    return str(tmp_path / "shop.db")


class Killed:
    "A client whose process is killed after so many insertions: nothing that it sends arrives any more."

    def __init__(self, client, left):
        self.client = client
        self.left = left

    def __getattr__(self, name):
        def call(*given, **how):
            if self.left == 0:
                raise ConnectionError("killed")
            self.left -= name == "insert"
            return getattr(self.client, name)(*given, **how)

        return call


ODD = ['a "shirt"', "b\\c", "d'e", "röd kjol", "] or query >= 0"]


def test_milvus_gives_what_the_exact_search_gives(database, tmp_path):
    names = ODD + names_of(45)
    shop = CatalogueIndex.build(tmp_path / "shop", "space", names, items_of(50))
    there = M.MilvusCatalogue.build(database, "space", names, items_of(50))
    queries = queries_of(5)
    for change in (lambda own: None, lambda own: own.append(["x", "y"], items_of(2, 8)),
                   lambda own: own.delete([*ODD, "x"])):
        change(shop)
        change(there)
        there = M.MilvusCatalogue.load(database, "space")
        assert len(there) == len(shop)
        for k in (1, 7, 500):
            for own, other in zip(shop.search(queries, k), there.search(queries, k)):
                assert [hit.name for hit in own] == [hit.name for hit in other]
                assert [hit.score for hit in own] == pytest.approx([hit.score for hit in other], abs=1e-5)


def test_milvus_fetches_more_where_too_few_items_are_behind_the_rows(database, monkeypatch):
    monkeypatch.setattr(M, "FETCHED", 1)
    there = M.MilvusCatalogue.build(database, "space", names_of(20), items_of(1).repeat(20, 0))
    assert len(there.search(items_of(1)[0, :1], 20)[0]) == 20


@pytest.mark.parametrize("call, error, words", [
    (lambda there, uri: M.MilvusCatalogue.load(uri, "a map"), ValueError, "another model than a map"),
    (lambda there, uri: M.MilvusCatalogue.load(uri, "space", "hats"), FileNotFoundError, "no hats at"),
    (lambda there, uri: M.MilvusCatalogue.build(uri, "space", ["a"], items_of(1)), FileExistsError,
     "load it"),
    (lambda there, uri: there.append(["000"], items_of(1)), ValueError, "'000' is in this catalogue already"),
    (lambda there, uri: there.append(["x", "x"], items_of(2)), ValueError, "'x' is given 2 times"),
    (lambda there, uri: there.delete([""]), ValueError, "'' is not in this catalogue"),
    (lambda there, uri: there.append(["x"], 2 * items_of(1)), ValueError, "'x': its vector 0 has length 2"),
    (lambda there, uri: there.append(["x"], items_of(2)), ValueError, "1 names and vectors of shape"),
    (lambda there, uri: there.delete(["z"]), ValueError, "'z' is not in this catalogue"),
    (lambda there, uri: there.search(queries_of(1), 0), ValueError, "from 1; here: 0"),
    (lambda there, uri: there.search(queries_of(1, width=5), 1), ValueError, r"wanted are \(1 or more, 8\)"),
])
def test_milvus_refuses_what_the_folder_refuses(database, call, error, words):
    there = M.MilvusCatalogue.build(database, "space", names_of(3), items_of(3))
    with pytest.raises(error, match=words):
        call(there, database)
    assert len(there) == 3


@pytest.mark.parametrize("arrived", [1, 2, 3, 4], ids=["mark", "a block", "two blocks", "all blocks"])
def test_what_a_killed_upload_has_sent_is_not_found_and_can_be_cleared(database, monkeypatch, arrived):
    monkeypatch.setattr(M, "BATCH", 2)
    names = ["v", "w", "x", "y", "z"]
    there = M.MilvusCatalogue.build(database, "space", ["a", "b", "c"], items_of(3))
    there.client = Killed(there.client, arrived)
    with pytest.raises(ConnectionError):
        there.append(names, items_of(5, 8))
    there = M.MilvusCatalogue.load(database, "space")
    before = there.search(queries_of(4), 99)
    assert len(there) == 3 and {hit.name for own in before for hit in own} == {"a", "b", "c"}
    with pytest.raises(ValueError, match="'v' is not in this catalogue"):
        there.delete(["v"])
    with pytest.raises(BlockingIOError, match=r"under way, or was killed: .* with \.clear\(\)"):
        there.append(names, items_of(5, 8))
    there.delete(["c"])  # what is finished can be changed all the while
    there.clear()
    assert there.unfinished() == set() and there.count("query >= 0") == 2 * 4
    there.append(names, items_of(5, 8))
    assert len(there) == 7 and there.count("query >= 0") == 7 * 4
    assert there.search(items_of(5, 8)[4, :1], 1)[0][0].name == "z"


def test_an_upload_is_seen_as_a_whole(database, monkeypatch):
    monkeypatch.setattr(M, "BATCH", 2)
    there = M.MilvusCatalogue.build(database, "space", ["a"], items_of(1))
    reader = M.MilvusCatalogue.load(database, "space")
    send, seen = M.MilvusCatalogue.send, []

    def sent(self, *given):
        send(self, *given)
        seen.append((len(reader), len(reader.search(queries_of(1), 9)[0])))

    monkeypatch.setattr(M.MilvusCatalogue, "send", sent)
    there.append(["v", "w", "x", "y", "z"], items_of(5, 8))
    assert seen == [(1, 1)] * 3 and len(reader) == 6


def test_the_mark_of_an_upload_that_begins_during_a_search_is_not_found(database, monkeypatch):
    there = M.MilvusCatalogue.build(database, "space", ["a"], items_of(1))
    M.MilvusCatalogue.load(database, "space").begin()
    monkeypatch.setattr(M.MilvusCatalogue, "unfinished", lambda self: set())  # as before it began
    assert [hit.name for hit in there.search(queries_of(1), 9)[0]] == ["a"]


def test_milvus_forgets_names_that_are_made_one_by_one(database):
    there = M.MilvusCatalogue.build(database, "space", ["a", "b", "c"], items_of(3))
    there.delete(name for name in "ac")
    assert len(there) == 1 and there.count("query >= 0") == 4


def test_an_upload_that_is_refused_leaves_nothing(database, monkeypatch):
    monkeypatch.setattr(M, "BATCH", 1)
    there = M.MilvusCatalogue.build(database, "space", ["a"], items_of(1))
    bad = items_of(3, 8) * np.array([1, 1, 2]).reshape(3, 1, 1)
    for names, vectors, words in ((["x", "y", "z"], bad, "'z': its vector 0 has length 2"),
                                  (["x", "y", "a"], items_of(3, 8), "'a' is in this catalogue already")):
        with pytest.raises(ValueError, match=words):
            there.append(names, vectors)
        assert there.unfinished() == set() and there.count("query >= 0") == 4


def test_of_two_writers_the_second_is_refused_and_the_first_is_not_disturbed(database):
    first = M.MilvusCatalogue.build(database, "space", ["a"], items_of(1))
    upload = first.begin()
    first.send(upload, ["b"], items_of(1, 2))
    second = M.MilvusCatalogue.load(database, "space")
    with pytest.raises(BlockingIOError):
        second.append(["b"], items_of(1, 3))
    assert second.unfinished() == {upload} and second.count("query == 0") == 1
    first.send(upload, ["c"], items_of(1, 4))
    first.client.delete(first.collection, filter=f'query < 0 and upload == "{upload}"')
    assert len(second) == 3


def test_an_upload_that_is_cleared_under_way_fails_and_leaves_nothing(database, monkeypatch):
    monkeypatch.setattr(M, "BATCH", 1)
    there = M.MilvusCatalogue.build(database, "space", ["a"], items_of(1))
    send = M.MilvusCatalogue.send

    def cleared(self, upload, names, block):
        send(self, upload, names, block)
        if names == ["y"]:
            M.MilvusCatalogue.load(database, "space").clear()

    monkeypatch.setattr(M.MilvusCatalogue, "send", cleared)
    with pytest.raises(RuntimeError, match="cleared while it was under way"):
        there.append(["x", "y", "z"], items_of(3, 8))
    assert there.unfinished() == set() and there.count("query >= 0") == 4


def test_a_collection_that_does_not_say_what_was_finished_is_refused(monkeypatch):
    fields = [{"name": "vector", "params": {"dim": 8}}]
    client = SimpleNamespace(has_collection=lambda name: True,
                             describe_collection=lambda name: {"fields": fields})
    monkeypatch.setattr(M, "open_client", lambda uri: client)
    with pytest.raises(ValueError, match="drop its collection catalogue_.*, and build it again"):
        M.MilvusCatalogue.load("shop.db", "space")
