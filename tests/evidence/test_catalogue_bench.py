"""The benchmark of catalogues: reduction, recall, what is counted, a whole small run, the page of sizes."""

import numpy as np
import pytest

from unifashion.evidence import catalogue_bench as B
from unifashion.evidence.bench import Limits
from unifashion.models.catalogue_index import CatalogueIndex

RATES = B.Rates(1000, 32, 256, (0.5, 1.6), (0.004, 0.04), 1e6, 2., 3.)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_items_by_the_best_of_their_vectors():
    assert B.first_items(np.array([9, 8, 3, 10, -1]), 4, 2).tolist() == [2, 0]
    assert B.first_items(np.array([9, 8, -1]), 4).tolist() == [2]


def test_what_is_missed_is_a_share_of_the_exact_hits():
    exact = np.array([[1, 2], [3, 4]])
    assert B.missed(exact, exact[:, ::-1]) == 0
    assert B.missed(exact, np.array([[1, 9], [3, 4]])) == 0.25 and B.missed(exact, exact + 10) == 1


@pytest.fixture
def catalogue(tmp_path):
    vectors = unit(np.random.default_rng(0).normal(size=(90, 4, 16)))
    return CatalogueIndex.build(tmp_path / "shop", "space", [f"{n:09d}" for n in range(90)], vectors)


def test_a_race_counts_half_precision_bytes_and_operations(catalogue):
    queries = unit(np.random.default_rng(1).normal(size=(20, 16)))
    one, many = B.exact_races(catalogue, "another", lambda queries: None, queries)
    assert one.moved == many.moved == 2 * 90 * 4 * 16
    assert one.operations == 2 * 90 * 4 * 16 and many.operations == B.FEW * one.operations
    assert [race.ours().shape for race in (one, many)] == [(1, B.K), (B.FEW, B.K)]


def test_every_exact_way_finds_the_same(catalogue):
    pytest.importorskip("faiss", reason="FAISS is not installed: pip install faiss-cpu")
    import torch
    queries = unit(np.random.default_rng(1).normal(size=(20, 16)))
    wanted = B.by_names(catalogue.search)(queries)
    everything = torch.from_numpy(catalogue.vectors_at(np.arange(90)).astype(np.float32))
    of_faiss = [B.by_faiss(catalogue, kind, 40) for kind in ("flat", "fp16")]
    for way in (B.by_einsum(everything), *of_faiss):
        assert B.missed(wanted, way(queries)) < 0.02


def test_a_small_run_has_every_row_and_a_page(tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="FAISS is not installed: pip install faiss-cpu")
    measured = unit(np.random.default_rng(2).normal(size=(40, 1, 16)) + np.random.default_rng(3).normal(
        size=(40, 8, 16)))
    monkeypatch.setattr(B, "drawn_vectors", lambda: ("space", measured, measured[:20, 0]))
    told = B.race_all(400, tmp_path / "catalogue", 1, Limits(1e12, 1e12))
    assert len(told["rows"]) == 8 and told["recall"] > 0.9
    assert [row["same"] for row in told["rows"] if row["goal"] is None] == [True] * 6
    assert (told["rates"].items, told["rates"].n_query, told["rates"].width) == (400, 8, 16)
    assert told["rates"].fast_bytes > 400 * 8 * 4 and min(told["peaks"].values()) > 0
    page = B.bench_page(told)
    assert "A search of 400 items of 8 vectors of 16 numbers" in page and "| 1 B |" in page


def test_sizes_are_computed_from_rates():
    page = B.sizes_page(RATES, {"four times": 4000}, memory=1)
    assert page == [{"items": "four times", "vectors": "62.5 MiB", "codes": "3.8 MiB", "machines of 1 GiB": 1,
                     "exact, a query": "2.0 s", "exact, each of 16": "400 ms", "fast, a query": "16 ms",
                     "fast, each of 16": "10 ms", "write": "8.0 s", "make codes": "24 s"}]
    assert B.sizes_page(RATES)[2]["vectors"] == "14.9 TiB"
    assert B.sizes_page(RATES)[2]["machines of 64 GiB"] == 239


@pytest.mark.parametrize("seconds, text", [(0.0041, "4.1 ms"), (0.25, "250 ms"), (1.5, "1.5 s"),
                                           (90, "1.5 min"), (7200, "2.0 h"), (86400 * 1234, "1,234 d")])
def test_times_have_a_unit_that_fits(seconds, text):
    assert B.seconds_text(seconds) == text


@pytest.mark.parametrize("words, said", [
    (["--items", "0"], "--items is counted from 1; here: 0"),
    (["--rounds", "-1"], "--rounds is counted from 1"),
    (["--out", "nowhere/page.md"], "--out nowhere/page.md: wanted is a file in a folder that exists"),
])
def test_the_command_refuses_before_anything_takes_time(words, said, capsys):
    from unifashion.app import main
    assert main(["bench-search", *words]) == 1
    assert said in capsys.readouterr().err
