"Table 6: the paper's sizes, our counts, mixtures; on real files where they are."

import os
from collections import Counter
from pathlib import Path

import pytest

from unifashion.data.datasets import DATASETS
from unifashion.evidence.claims import read_reported
from unifashion.evidence.data_table import (
    Counted,
    count_all,
    count_dataset,
    data_rows,
    data_table,
    home_of,
    mixture_table,
    mixtures,
    size_of,
    split_rows,
    stand_in_rows,
)
from unifashion.evidence.tiny_datasets import TINY
from unifashion.ground.core import Formats, World

REPORTED = read_reported("unifashion_table6")
OFFICIAL = {
    "fashiongen": Counted(Counter(train=260_490, test=32_528)),
    "fashion200k": Counted(Counter(train=172_049, test=29_789)),
    "fashioniq": Counted(Counter(train=18_000), captions=Counter(train=46_609, val=15_536)),
    "vitonhd": Counted(Counter(train=11_647, test=2_032)),
    "mgd": Counted(phrases=67_459),
}


def test_official_files_against_the_paper():
    rows = {(r["protocol"], r["row"]): r for r in data_rows(OFFICIAL, REPORTED, drawn=False)}
    assert {k: r["status"] for k, r in rows.items()} == {
        ("CMR", "FashionGen"): "reproduced",
        ("CMR", "Fashion200K"): "reproduced",
        ("CIR", "Fashion-IQ"): "reproduced",
        ("FIC", "FashionGen"): "reproduced",
        ("FIC", "Fashion-IQ-Cap"): "reproduced",
        ("FIG", "VITON-HD"): "differs",
        ("FIG", "MGD"): "differs",
    }
    assert rows["FIC", "Fashion-IQ-Cap"]["value"] == 62_145 and (
        rows["CMR", "Fashion200K"]["stage 1"],
        rows["CMR", "Fashion200K"]["stage 2"],
    ) == (1, 0)
    validation = next(
        r
        for r in split_rows(OFFICIAL, read_reported("unifashion_counts"), False)
        if r["row"] == "FashionGen, test"
    )
    assert (validation["value"], validation["reported"], validation["status"]) == (32_528, 35_500, "differs")


def test_validation_captions_alone_are_no_disagreement():
    rows = data_rows(
        {"fashioniq": Counted(Counter(train=18_000), captions=Counter(val=15_536))}, REPORTED, drawn=False
    )
    assert (rows[4]["value"], rows[4]["status"], rows[4]["files"]) == (
        15_536,
        "not comparable",
        "val alone",
    ) and "val alone at hand" in data_table(rows, [])


def test_open_draws_from_what_has_pictures():
    found = {
        "kagl": Counted(Counter(train=30), composed=Counter(train=10)),
        "ccp": Counted(Counter(train=10)),
        "fashioniq": Counted(Counter(train=99)),
    }
    shares = mixtures(data_rows(found, REPORTED, False), stand_in_rows(found, World("kagl")))
    assert shares[1, "ours"] == {"KAGL": 1.0} and shares[2, "ours"] == {
        "KAGL": 0.6,
        "KAGL, composed": 0.2,
        "Clothing Co-Parsing": 0.2,
    }


def test_what_is_not_there_is_not_run():
    rows = data_rows({}, REPORTED, drawn=False)
    assert len(rows) == 7 and all(r["value"] is None and r["status"] == "not run" for r in rows)
    assert size_of("MGD", Counted()) is None and not any(mixtures(rows)[k, "ours"] for k in (1, 2))
    assert "not at hand" in data_table(rows, [])


def test_mixtures_add_up_and_count_fashiongen_once():
    shares = mixtures(data_rows(OFFICIAL, REPORTED, drawn=False))
    for share in shares.values():
        assert abs(sum(share.values()) - 1) < 1e-12
    assert shares[1, "paper"]["FashionGen"] == pytest.approx(260.5 / (260.5 + 172 + 60)) and set(
        shares[1, "paper"]
    ) == {"FashionGen", "Fashion200K", "Fashion-IQ-Cap"}
    assert shares[2, "ours"]["VITON-HD"] == pytest.approx(11_647 / (260_490 + 18_000 + 11_647 + 67_459))
    assert mixture_table(data_rows(OFFICIAL, REPORTED, False)).count("|") > 30


@pytest.mark.parametrize(
    "name, rows",
    [
        ("fashiongen", None),
        ("dresscode", {"train": 6, "test": 6}),
        ("ccp", {"train": 2, "val": 2, "test": 2}),
        ("kagl", {"train": 6, "val": 3, "test": 3}),
    ],
)
def test_counts_of_drawn_files(tmp_path, name, rows):
    found = count_dataset(name, TINY[name](tmp_path / name / "data"))
    if rows:
        assert dict(found.rows) == rows
    else:
        assert found.rows["train"] >= 6 and found.rows["test"] >= 6
    assert found.phrases == (12 if name == "dresscode" else 0)


def test_no_folder_no_count(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_DATA", str(tmp_path))
    (tmp_path / "annotations").mkdir()
    assert count_all(World("kagl"), Formats()) == {} and home_of("vitonhd", World("kagl"), Formats()) is None
    (tmp_path / "annotations" / "fashion_iq").mkdir(parents=True)
    assert home_of("fashioniq", World("kagl"), Formats()) == tmp_path / "annotations" / "fashion_iq"


@pytest.mark.skipif(
    not Path(os.environ.get("UNIFASHION_DATA", "none"), "annotations").is_dir(),
    reason="real files: set UNIFASHION_DATA",
)
def test_real_files_at_hand():
    found = count_all(World("kagl"), Formats())
    for name, record in DATASETS.items():
        if name in found and name != "mgd":
            for split, n in record.counts.items():
                assert found[name].rows[split] in (0, n), (name, split)
    assert (
        found["fashioniq"].rows["train"] == 18_000
        and found["fashioniq"].captions["val"] == 15_536
        and found["mgd"].phrases == 67_459
    )
    assert (
        found["kagl"].rows["test"] == 2_159
        and found["kagl"].composed["train"] == 10_005
        and found["ccp"].rows["train"] == 799
    )
