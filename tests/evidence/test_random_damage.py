"""Damage by chance: fixed by its seed, where the structure of files lies, and what counts as a crash."""

import io
import math
import os
import tarfile
from collections import Counter
from contextlib import nullcontext
from time import sleep

import h5py
import numpy as np
import pytest
from PIL import Image

from unifashion.data.prepare import check
from unifashion.data.samples import DataError
from unifashion.data.stores import decode, tar_header
from unifashion.evidence import random_damage as r
from unifashion.evidence.damage import damage, put
from unifashion.evidence.damage_targets import TARGETS, Target
from unifashion.evidence.malformed import Case, Reading
from unifashion.evidence.tiny_datasets import TINY
from unifashion.ground.core import stream

LETTERS = bytes(range(97, 123)) * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("random")


def case_of(dataset, way, pattern=None, n=4000):
    return next(
        case
        for case in r.random_cases(n)
        if (case.dataset, case.damage.name) == (dataset, way) and pattern in (None, case.target.pattern)
    )


# The generator


def test_cases_are_fixed_by_their_seed():
    name = lambda cases: [case.name for case in cases]
    assert name(r.random_cases(300)) == name(r.random_cases(2500)[:300])
    assert not set(name(r.random_cases(300))) & set(name(r.random_cases(300, seed=1)))
    assert len(set(name(r.random_cases(2500)))) == 2500


def test_every_file_of_every_data_set_is_damaged_in_every_way():
    cases = r.random_cases(2500)
    assert Counter(case.dataset for case in cases) == dict.fromkeys(TINY, 250)
    tried = {(case.dataset, case.target.pattern, case.damage.name) for case in cases}
    assert tried == {(d, t.pattern, way) for d, targets in TARGETS.items() for t in targets for way in r.WAYS}


@pytest.mark.parametrize("way", r.WAYS)
def test_a_way_is_fixed_by_its_random_stream_and_damages(way):
    some = {r.WAYS[way](LETTERS, stream(0, "a way", k)) for k in range(12)}
    assert some == {r.WAYS[way](LETTERS, stream(0, "a way", k)) for k in range(12)}
    assert len(some) > 6 and some != {LETTERS}
    assert isinstance(r.WAYS[way](b"", stream(0, "empty")), bytes)


def test_blind_ways_do_what_they_are_called():
    for k in range(20):
        draw = lambda: stream(0, "blind", k)
        flipped = r.flipped_bytes(LETTERS, draw(), 10, 14)
        assert len(flipped) == len(LETTERS) and flipped[:10] + flipped[14:] == LETTERS[:10] + LETTERS[14:]
        start, end = r.stretch(LETTERS, draw())
        zeroed = r.zeroed(LETTERS, draw())
        assert zeroed == LETTERS[:start] + bytes(len(LETTERS[start:end])) + LETTERS[end:]
        assert r.removed(LETTERS, draw()) == LETTERS[:start] + LETTERS[end:]
        assert r.repeated(LETTERS, draw()) == LETTERS[:end] + LETTERS[start:]
        assert LETTERS.startswith(r.ended_early(LETTERS, draw()))


def test_one_file_alone_is_damaged_and_always_the_same(folder):
    case = case_of("folder", "bytes flipped")
    base = r.base_of("folder", folder)
    roots = [r.damaged(case, base, folder / f"copy{k}") for k in range(2)]
    content = lambda root: {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    first, again, whole = map(content, (*roots, base))
    assert first == again and sum(first[name] != whole[name] for name in whole) == 1


# Where the structure lies


def test_the_object_headers_of_an_hdf5_file_are_known(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="earliest") as file:
        file["x"] = [1, 2]
        places = {h5py.h5o.get_info(part.id).addr for part in (file, file["x"])}
    data = (tmp_path / "a.h5").read_bytes()
    assert places | {0, data.index(b"TREE"), data.index(b"HEAP")} <= set(r.marks(data))


def test_marks_of_other_formats():
    assert r.marks(b'{"a": 1}') == [0, 1, 3, 4, 7] and r.marks(b"abc") == [0]
    buffer = io.BytesIO()
    np.savez(buffer, uv=np.zeros(3))
    data = buffer.getvalue()
    assert r.marks(data) == [0, data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")]
    assert r.marks(b"\xff\xd8\xff\xe0ab\xff\xda\xff\x00") == [0, 2, 6]


def tar(*names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name in names:
            file.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def test_a_tars_checksum_is_mended():
    data = tar("a.jpg", "b.jpg")
    assert r.marks(data) == [0, 512] and r.mended_tar(data, [0, 512])[:148] == data[:148]
    wrong = data[:600] + b"\x07" + data[601:]
    with pytest.raises(ValueError, match="checksum"):
        tar_header(wrong[512:1024])
    assert tar_header(r.mended_tar(wrong, [0, 512])[512:1024])[0].startswith("b.jpg")


def test_a_pngs_checksums_are_mended():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(buffer, "PNG")
    data = buffer.getvalue()
    assert r.mended_png(data) == data
    wrong = data[:23] + b"\x0c" + data[24:]  # 12 rows instead of 16
    with pytest.raises(DataError):
        decode(wrong)
    assert decode(r.mended_png(wrong)).shape == (12, 16, 3)


def test_what_is_zipped_is_changed_under_a_right_checksum():
    buffer = io.BytesIO()
    np.savez(buffer, uv=np.zeros((2, 8, 8)))
    outcomes = set()
    for k in range(30):
        changed = r.under_right_sums(buffer.getvalue(), stream(0, "zip", k))
        try:
            with np.load(io.BytesIO(changed)) as file:
                outcomes.add(file["uv"].shape)
        except Exception as error:
            outcomes.add(type(error).__name__)
    assert outcomes and "BadZipFile" not in outcomes


# What counts as what


def test_ends_of_a_reading():
    before = Reading({("test", "1"): "a"}, Counter())
    end = lambda rows=before.rows, counts=(), error=None: r.read_end(
        before, Reading(rows, Counter(counts), error)
    )
    assert end() == "same data" and end({("test", "1"): "b"}) == end({}) == "other data"
    assert end(counts=["no text"]) == "noted"
    assert end(error=DataError("x", "a.h5")) == "named error"
    assert end(error=KeyError("x")) == end(error=ValueError("x")) == "crash"


def test_a_planted_unguarded_reading_is_a_crash_in_the_table(folder, monkeypatch):
    tear = lambda path, rng: put(path, path.read_bytes().replace(b"SNOD", b"SNOX"))
    torn = damage("a torn symbol table", "random", tear)
    case = Case("fashiongen", Target("*.h5", (), (torn,)), torn, 0)
    sound = r.run_random(case, folder)
    assert (sound["read"], sound["prepare"]) == ("named error", "told") and ".h5" in sound["reads"]
    monkeypatch.setattr("unifashion.data.doors.guarded", lambda *about: nullcontext())
    planted = r.run_random(case, folder)
    assert (planted["read"], planted["prepare"]) == ("crash", "crash") and "DataError" not in planted["reads"]
    line = r.random_rows([sound, planted])[0]
    counted = ("tried", "reading: named error", "preparing: told", "crash")
    assert [line[name] for name in counted] == [2, 1, 1, 1]
    values = {(row["protocol"], row["metric"]): row["value"] for row in r.random_table([sound, planted])}
    assert values["random: a torn symbol table", "crash"] == 1


def test_a_process_that_dies_or_hangs_costs_its_job_alone():
    died, healthy = r.isolated(os._exit, [3], workers=1), r.isolated(math.sqrt, [4, -1, 9])
    assert isinstance(died[0], r.Lost) and "died (3)" in died[0].reason
    assert (healthy[0], healthy[2]) == (2, 3) and "math domain error" in healthy[1].reason
    assert "no end within 0.2 s" in r.isolated(sleep, [1000], workers=1, limit=0.2)[0].reason


def test_after_a_death_another_process_takes_over():
    first, *rest = r.isolated(eval, ["__import__('os').abort()", "1 + 1", "2 + 2"], workers=1)
    assert isinstance(first, r.Lost) and rest == [2, 4]


def test_a_lost_job_is_a_crash_in_both_columns(folder, monkeypatch):
    cases = [case_of("folder", "structure"), case_of("folder", "several")]
    died = r.Lost("the process died (-11)")
    monkeypatch.setattr(r, "isolated", lambda run, jobs, *how: [died, run(jobs[1])])
    lost, other = r.run_random_cases(cases, folder)
    assert (lost["read"], lost["prepare"], lost["reads"]) == ("crash", "crash", "the process died (-11)")
    assert not r.crashed(other) and r.random_rows([lost, other])[-1]["crash"] == 1


def test_rows_add_up_and_a_figure_is_drawn():
    row = dict(dataset="a", format="PNG", damage="several", prepare="told")
    results = [row | {"read": end} for end in (*r.READ, "named error")]
    line = r.random_rows(results, "format")[-1]
    assert line["tried"] == sum(line[f"reading: {end}"] for end in r.READ) == line["preparing: told"] == 5
    assert len(r.random_figure(results).axes) == 2


# The readers


def test_a_sample_of_random_damage_ends_in_no_crash(folder):
    results = r.run_random_cases(r.random_cases(60, seed=5), folder)
    assert not [row for row in results if r.crashed(row)]
    assert {row["read"] for row in results} >= {"named error", "other data"}


def test_a_val_that_damage_emptied_is_told(tmp_path):
    "Of drawn data sets a val without rows is no problem; one whose file is broken is."
    root = TINY["kagl"](tmp_path / "kagl")
    assert check("kagl", root, any_size=True)["complete"]
    path = root / "triplets_val.jsonl.gz"
    path.write_bytes(path.read_bytes()[:12] + b"\xff" * 8)
    problems = check("kagl", root, any_size=True)["problems"]
    assert len(problems) == 1 and problems[0].startswith("val, composed")
