"""`unifashion prepare`: records and README agree, trees, what a check finds in drawn data sets, exit codes;
and malformed input, a sample."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from unifashion.app import main
from unifashion.data.datasets import DATASETS, Place, better_root, dataset_record, expand, missing_of
from unifashion.data.prepare import check, report_text
from unifashion.data.samples import DataError
from unifashion.data.tryon_stores import check_sizes, other_aspect
from unifashion.evidence.malformed import (
    GOOD,
    TARGETS,
    Case,
    Reading,
    all_cases,
    outcome,
    outcome_rows,
    run_cases,
    some_cases,
)
from unifashion.evidence.tiny_datasets import TINY
from unifashion.ground.core import Formats, World
from unifashion.shop.drawn import DRAWN, drawn_dataset, sizes_of

README = (ROOT / "data" / "README.md").read_text(encoding="utf-8")


# Records


def section(title):
    return " ".join(
        re.split(r"^## ", README, flags=re.M)[
            [t.split("\n")[0].lower() for t in re.split(r"^## ", README, flags=re.M)].index(title.lower())
        ].split()
    )


@pytest.mark.parametrize("name", DATASETS)
def test_the_readme_says_what_the_record_says(name):
    record = DATASETS[name]
    text = section(record.title)
    for wanted in (
        f"*Licence.* {record.licence}",
        f"*Get it.* {record.access}",
        f"*Waiting.* {record.wait[0].upper()}{record.wait[1:]}.",
    ):
        assert wanted in text, f"data/README.md, {record.title}: {wanted}"
    for split, n in record.counts.items():
        assert re.search(rf"\b{n:,}\b", text), f"data/README.md, {record.title}: {split} {n:,}"
    for tree in record.trees.values():
        for place in tree:
            if place.needed:
                assert not [
                    word for word in re.findall(r"[A-Za-z][A-Za-z0-9-]*", place.path) if word not in text
                ], f"data/README.md, {record.title}: {place.path}"
    if record.folder != "folder":
        assert f"{record.folder}/" in README
    assert f"`{name}`" in README and f"`{record.reader.split('.')[-1]}`" in README


@pytest.mark.parametrize("name", DATASETS)
def test_the_reader_of_a_record_exists(name):
    module, function = DATASETS[name].reader.rsplit(".", 1)
    assert callable(getattr(__import__(f"unifashion.{module}", fromlist=[function]), function))


def test_braces_are_filled_in_order():
    assert expand("a/{x,y}_{1,2}.txt") == ["a/x_1.txt", "a/x_2.txt", "a/y_1.txt", "a/y_2.txt"] and expand(
        "plain"
    ) == ["plain"]


def test_a_place_is_missing_where_nothing_matches(tmp_path):
    (tmp_path / "a_1.txt").touch()
    assert (
        missing_of(Place("a_{1,2}.txt", ""), tmp_path) == ["a_2.txt"]
        and missing_of(Place("a_*.txt", ""), tmp_path) == []
        and missing_of(Place("b_*.h5", ""), tmp_path) == ["b_*.h5"]
    )


def test_the_form_with_most_of_its_files_is_meant(tmp_path):
    record = dataset_record("kagl")
    assert record.form(tmp_path) == "pack"
    (tmp_path / "styles.csv").touch()
    (tmp_path / "images").mkdir()
    assert record.form(tmp_path) == "small"
    (tmp_path / "styles").mkdir()
    assert record.form(tmp_path) == "full"


# What a check finds


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "One of each, drawn once."
    root = tmp_path_factory.mktemp("drawn")
    return {name: make(root / name / name) for name, make in TINY.items()}


@pytest.fixture
def copy(drawn, tmp_path):
    def copied(name):
        return shutil.copytree(drawn[name].parent, tmp_path / "copy") / name

    return copied


@pytest.mark.parametrize("name", [n for n in TINY if not n.startswith("kaggle")])
def test_a_drawn_data_set_is_complete(drawn, name):
    report = check(name, drawn[name], any_size=True)
    assert report["complete"], report["problems"]
    assert json.loads(json.dumps(report)) == report and not report["copies"]["groups"]
    assert all(c["listed"] == c["read"] > 0 for c in report["counts"].values())


@pytest.mark.parametrize("name", ["vitonhd", "fashioniq"])
def test_a_drawn_data_set_is_not_the_official_one(drawn, name):
    problems = check(name, drawn[name])["problems"]
    assert any("official release has" in line for line in problems) and all(
        "official release has" in line or line.startswith("val") for line in problems
    )


def test_without_contents_nothing_is_opened(tmp_path, monkeypatch):
    for name in (
        "images.tar",
        "labels.tar",
        "labels.json",
        "garments.jsonl.gz",
        "poses.json.gz",
        "split.json",
    ):
        (tmp_path / name).write_bytes(b"no such thing")
    report = check("ccp", tmp_path, contents=False)
    assert report["complete"] and "splits" not in report
    with_contents = check("ccp", tmp_path)
    assert not with_contents["complete"] and any("broken JSON" in line for line in with_contents["problems"])


def test_damage_is_counted_by_kind(copy):
    root = copy("vitonhd")
    people, cloths = sorted((root / "test/image").iterdir()), sorted((root / "test/cloth").iterdir())
    people[0].write_bytes(people[0].read_bytes()[:400])
    shutil.copy(cloths[0], cloths[1])
    mask = root / "test/agnostic-mask" / f"{people[1].stem}_mask.png"
    Image.open(mask).resize((48, 32)).save(mask)
    Image.fromarray(np.zeros((64, 48), np.uint8)).save(root / "test/cloth-mask" / cloths[0].name)
    report = check("vitonhd", root, any_size=True)
    test = report["splits"]["test"]
    assert test["pictures"]["person"]["failed"] == {"unreadable picture": 1} and test["other_aspect"] == {
        "agnostic_mask": 1
    }
    assert (
        test["masks"]["garment_mask"]["empty"] == 1
        and report["copies"]["groups"] == 1
        and report["copies"]["files"] == 1
        and report["copies"]["within"] == {"test": 1}
    )
    assert not report["complete"] and any(people[0].name in line for line in report["problems"])
    assert "NOT complete" in report_text(report) and people[0].name in report_text(report)


def test_copies_across_splits_are_told(copy):
    root = copy("folder")
    lines = (root / "catalogue.csv").read_text().splitlines()
    train, test = (
        next(line.split(",")[0] for line in lines if line.endswith(split)) for split in ("train", "test")
    )
    shutil.copy(root / "images" / train, root / "images" / test)
    report = check("folder", root)
    assert report["copies"]["across_splits"] == 1 and report["copies"]["within"] == {} and report["complete"]


@pytest.mark.skipif(not os.environ.get("UNIFASHION_DATA"), reason="real files: set UNIFASHION_DATA")
def test_real_packs_are_complete_and_annotations_alone_are_not(tmp_path):
    data = Path(os.environ["UNIFASHION_DATA"])
    packs = {name: check(name, data / name, contents=name == "ccp") for name in ("ccp", "kagl")}
    assert {name: report["complete"] for name, report in packs.items()} == {"ccp": True, "kagl": True}, [
        report["problems"] for report in packs.values()
    ]
    assert {label: s["read"] for label, s in packs["ccp"]["splits"].items()} == {
        "train": 799,
        "val": 108,
        "test": 97,
    }
    alone = check("fashioniq", data / "annotations" / "fashion_iq", contents=False)
    assert (
        not alone["complete"]
        and all("images" in line for line in alone["problems"])
        and main(["prepare", "fashioniq", "--root", str(data / "annotations/fashion_iq")]) != 0
    )


def test_a_gallery_of_another_size_is_told(copy):
    root = copy("fashioniq")
    problems = check("fashioniq", root)["problems"]
    assert any("gallery dress/val: 8 pictures, the official release has 3,817" in line for line in problems)


def test_annotations_alone_are_counted(copy):
    root = copy("fashioniq")
    shutil.rmtree(root / "images")
    report = check("fashioniq", root, any_size=True)
    assert (
        report["problems"] == ["missing: images (pictures: ASIN.png or ASIN.jpg)"]
        and report["counts"]["val"]["read"] > 0
    )


def test_a_map_of_another_aspect_is_an_error(drawn):
    from unifashion.data.tryon_readers import read_vitonhd

    sample = read_vitonhd(drawn["vitonhd"], "test")[0]
    check_sizes(sample, {"person": (64, 48), "parse": (32, 24)})
    with pytest.raises(DataError, match="parse is 48 x 32, its picture 48 x 64"):
        check_sizes(sample, {"person": (64, 48), "parse": (32, 48)})
    assert (
        not other_aspect((1024, 768), (512, 384))
        and not other_aspect((387, 256), (386, 256))
        and other_aspect((64, 48), (64, 50))
    )


# The command


def test_exit_codes_and_messages(drawn, tmp_path, capsys):
    root = str(drawn["folder"])
    assert (
        main(["prepare", "folder", "--root", root, "--check", "--json", str(tmp_path / "report.json")]) == 0
    )
    assert (
        json.loads((tmp_path / "report.json").read_text())["complete"]
        and "complete (read and opened)" in capsys.readouterr().out
    )
    assert main(["prepare", "vitonhd", "--root", root]) == 1 and "MISSING" in capsys.readouterr().out
    assert (
        main(["prepare", "viton", "--root", root]) == 1
        and "there are fashiongen, fashion200k" in capsys.readouterr().err
    )
    assert (
        main(["prepare", "folder", "--root", str(tmp_path / "none")]) == 1
        and "is not a folder" in capsys.readouterr().err
    )


def printed(capsys, *words):
    "Exit code and text of `unifashion prepare`."
    code = main(["prepare", *map(str, words)])
    return code, capsys.readouterr().out


def test_a_split_of_which_nothing_is_left_says_why(copy, capsys):
    root = copy("vitonhd")
    for path in (root / "test/image").iterdir():
        path.unlink()
    code, text = printed(capsys, "vitonhd", "--root", root, "--check", "--any-size", "--split", "test")
    n = len((root / "test_pairs.txt").read_text().splitlines())
    assert code == 1 and f"holds no rows ({n} seen, {n} left out; {n} x missing picture, first:" in text
    assert "NOT complete (nothing could be read)" in text and "read and opened" not in text


def test_all_reasons_are_printed_on_request(copy, capsys):
    root = copy("vitonhd")
    lost = sorted((root / "test/image").iterdir())[0]
    lost.unlink()
    poses = sorted((root / "train/openpose_json").iterdir())
    for path in poses:
        path.write_text("{")
    words = ("vitonhd", "--root", root, "--check", "--any-size")
    short, full = printed(capsys, *words)[1], printed(capsys, *words, "--all-reasons")[1]
    assert len(poses) > 1 and sum(path.name in short for path in poses) == 1
    assert "test: 1 x missing picture, first:" in short and " more" not in full
    assert all(f"{path}, row 1: broken JSON" in full for path in poses)
    assert f"picture '{lost.name}' is missing" in full
    text = printed(capsys, *words, "--all-reasons", "--split", "test")[1]
    assert lost.name in text and poses[0].name not in text


def test_one_split_alone(copy, capsys):
    root = copy("vitonhd")
    shutil.rmtree(root / "train")
    (root / "train_pairs.txt").unlink()
    words = ("vitonhd", "--root", root, "--check", "--any-size")
    assert printed(capsys, *words)[0] == 1
    code, text = printed(capsys, *words, "--split", "test")
    assert code == 0 and "complete (read and opened)" in text
    assert "train" not in text.replace("{train,test}", "")
    assert main(["prepare", "vitonhd", "--root", str(root), "--split", "tets"]) == 1
    assert "no split 'tets'; there are train, val, test" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fashiongen", "kagl", "ccp", "fashioniq", "folder", "fashion200k"])
def test_every_data_set_can_be_asked_for_one_split(drawn, name):
    report = check(name, drawn[name], any_size=True, split="test")
    assert report["complete"], report["problems"]
    assert {label.split(",")[0].split(" ")[0] for label in report["splits"]} == {"test"}
    assert set(report["counts"]) == {"test"}


@pytest.mark.parametrize("name, folders", [("vitonhd", ["cloth", "cloth-mask"]), ("dresscode", ["masks"])])
def test_samples_without_shop_pictures(copy, capsys, name, folders):
    root = copy(name)
    for folder in folders:
        for path in root.glob(f"*/{folder}"):
            shutil.rmtree(path)
    for path in root.glob("*/images/*_1.jpg"):
        path.unlink()
    words = (name, "--root", root, "--check", "--any-size", "--split", "test")
    code, text = printed(capsys, *words)
    assert code == 1 and "MISSING" in text
    code, text = printed(capsys, *words, "--no-shop")
    assert code == 0 and "complete (read and opened)" in text and "MISSING" not in text
    assert "person" in text and not re.search(r"opened:.*\bgarment\b", text)


@pytest.mark.parametrize("place", ["deep", "high"])
def test_the_folder_next_door_is_named(drawn, capsys, place):
    root = drawn["vitonhd"]
    code, text = printed(capsys, "vitonhd", "--root", root / "test" if place == "deep" else root.parent)
    assert code == 1 and f"VITON-HD seems to lie in {root}" in text


def test_a_map_of_another_aspect_is_shown_with_its_file(copy):
    root = copy("vitonhd")
    path = sorted((root / "test/image-parse-v3").iterdir())[0]
    Image.open(path).resize((48, 32), Image.Resampling.NEAREST).save(path)
    problems = check("vitonhd", root, any_size=True)["problems"]
    assert [line for line in problems if line.startswith("test: parse: 1 of another aspect")
            and f"{path}: parse is 48 x 32, its picture 48 x 64" in line]


def test_a_report_has_a_folder_before_the_work_begins(drawn, tmp_path, monkeypatch, capsys):
    import unifashion.data.prepare as prepare

    monkeypatch.setattr(prepare, "check", None)
    for path in (tmp_path / "none" / "report.json", tmp_path):
        assert main(["prepare", "folder", "--root", str(drawn["folder"]), "--json", str(path)]) == 1
        assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


# Drawn formats


def test_sizes_come_from_the_profile():
    formats = Formats(fashioniq_train=9, fashioniq_val=8, fashioniq_test=8, vitonhd_train=2, vitonhd_test=2)
    assert sizes_of("fashioniq", formats) == {"train": 9, "val": 8, "test": 8} and sizes_of(
        "vitonhd", formats
    ) == {"train": 2, "test": 2}
    with pytest.raises(ValueError, match="real files"):
        sizes_of("dresscode", formats)
    with pytest.raises(ValueError, match="not drawn"):
        drawn_dataset("vitonhd", World("kagl"), formats)
    with pytest.raises(ValueError, match=", ".join(DRAWN)):
        drawn_dataset("vitonhdd", World("drawn"), formats)


# Malformed input


def test_there_are_a_thousand_cases_over_all_readers():
    cases = all_cases()
    assert (
        len(cases) >= 1000
        and {c.dataset for c in cases} == set(TINY) == set(TARGETS)
        and len({c.name for c in cases}) == len(cases)
    )
    assert {
        "broken picture",
        "absurd size",
        "channels",
        "EXIF rotation",
        "masks and maps",
        "keypoints",
        "broken JSON and CSV",
        "ids and pairs",
        "HDF5 keys and types",
        "encoding",
        "empty splits",
        "links and paths",
        "10,000 words",
        "missing file",
        "archives",
    } <= {c.damage.group for c in cases}


def test_a_sample_of_damaged_data_sets_ends_well(tmp_path):
    bad = [r for r in run_cases(some_cases(100), tmp_path) if r["raise"] not in GOOD or r["skip"] not in GOOD]
    assert not bad, "\n".join(
        f"{r['dataset']}: {r['file']}: {r['damage']} #{r['number']}: {r['raise']} {r['raises']} | "
        f"{r['skip']} {r['skips']}"
        for r in bad
    )


def test_the_runner_notices_silence_crashes_and_other_kinds(tmp_path, monkeypatch):
    from unifashion.data import catalogues as readers

    table = next(t for t in TARGETS["folder"] if t.pattern == "catalogue.csv")
    case = lambda name: Case("folder", table, next(d for d in table.of_content if d.name == name), 0)
    assert {
        r["raise"] for r in run_cases([case("a line twice"), case("an absolute path")], tmp_path / "whole")
    } == {"named error"}
    with monkeypatch.context() as broken:
        broken.setattr(readers, "inside", lambda images, name, *where: images / "0.jpg")
        assert run_cases([case("an absolute path")], tmp_path / "a")[0]["raise"] == "silent"
    with monkeypatch.context() as broken:
        broken.setattr(
            readers,
            "inside",
            lambda images, name, *where: {}[name] if name.startswith("/") else images / name,
        )
        assert run_cases([case("an absolute path")], tmp_path / "b")[0]["raise"] == "crash"
    with monkeypatch.context() as broken:

        def refuse(images, name, *where):
            if name.startswith("/"):
                raise DataError("no", images, None, "something else")
            return images / name

        broken.setattr(readers, "inside", refuse)
        assert run_cases([case("an absolute path")], tmp_path / "c")[0]["raise"] == "undeclared"


def test_rows_that_go_without_a_word_are_silence():
    "A reader that stops at the first row it skips counts one and loses many."
    table = next(t for t in TARGETS["folder"] if t.pattern == "catalogue.csv")
    case = Case("folder", table, next(d for d in table.of_content if d.name == "no text"), 0)
    before = Reading({("test", str(k)): f"mark {k}" for k in range(10)}, Counter())
    left = lambda n: Reading(dict(list(before.rows.items())[:n]), Counter({"no text": 1}))
    assert (
        outcome(case, before, left(9), "skip") == "counted"
        and outcome(case, before, left(8), "skip") == outcome(case, before, left(1), "skip") == "silent"
    )
    other = Reading({**left(9).rows, ("test", "0"): "changed"}, Counter({"no text": 1}))
    assert outcome(case, before, other, "skip") == "undeclared", (
        "a row was counted, and another is not what it was"
    )
    noted = Reading({**before.rows, ("test", "0"): "changed"}, Counter({"garment without phrases": 1}))
    twice = Reading({**noted.rows, ("test", "1"): "changed"}, Counter({"garment without phrases": 1}))
    assert (outcome(case, before, noted, "skip"), outcome(case, before, twice, "skip")) == (
        "undeclared",
        "undeclared",
    )


def test_outcomes_add_up():
    results = [
        dict(dataset="a", group="g", **{"raise": r, "skip": s})
        for r, s in (
            ("named error", "counted"),
            ("named error", "named error"),
            ("unchanged", "unchanged"),
            ("crash", "silent"),
        )
    ]
    line = outcome_rows(results)[-1]
    assert (
        line["tried"],
        line["stopping: named error"],
        line["skipping: counted"],
        line["skipping: named error"],
        line["harmless: unchanged"],
        line["crash"],
        line["silent"],
    ) == (4, 2, 1, 1, 1, 1, 1)


def test_a_picture_that_claims_a_billion_pixels_is_not_allocated(drawn):
    import subprocess
    import sys

    code = (
        "import resource; from unifashion.evidence.damage import huge_png; from unifashion.data.stores "
        "import decode; from unifashion.data.tryon_stores import decode_map\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for side in (9_000, 20_000, 60_000):\n"
        "    for read in (decode, lambda data: decode_map(data, 'mask')):\n"
        "        try: read(huge_png(side)); raise SystemExit('believed')\n"
        "        except ValueError: pass\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000, 'allocated'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-600:]


def test_a_folder_that_may_not_be_looked_into_is_not_there(tmp_path, monkeypatch):
    "Such as `lost+found` on a disk of its own: no reason to fail."
    (tmp_path / "lost+found").mkdir()
    before = Path.exists

    def refused(path):
        if "lost+found" in path.parts: raise PermissionError(13, "Permission denied", str(path))
        return before(path)

    monkeypatch.setattr(Path, "exists", refused)
    for record in DATASETS.values():
        assert better_root(record, tmp_path) is None
