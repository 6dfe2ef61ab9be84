"""Fashion200K, Fashion-IQ and Fashion-IQ-Cap:
official structure, round trips, the released files' counts, and damage."""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unifashion.data.fashion200k_readers import LABELS, read_fashion200k
from unifashion.data.retrieval_readers import (
    LONGEST,
    audit_guidance,
    open_composed,
    read_fashioniq,
    read_fashioniq_cap,
    with_captions,
)
from unifashion.data.samples import SPLITS, Catalogue, DataError, val_of
from unifashion.data.stores import FileStore
from unifashion.ground.core import World
from unifashion.shop import fashion200k_files
from unifashion.shop import retrieval_files as formats
from unifashion.shop.comparisons import differences, true_of
from unifashion.shop.fashion200k_files import FOLDERS, draw_listings, drawn_fashion200k, write_fashion200k
from unifashion.shop.fashiongen_files import on_square, part_of
from unifashion.shop.phrases import agrees
from unifashion.shop.retrieval_files import (
    CATEGORIES,
    draw_shelf,
    drawn_fashioniq,
    guidance_of,
    guided_caption,
    read_truth,
    write_fashioniq,
    write_fashioniq_cap,
)
from unifashion.wardrobe.drawing import draw

SIZES, HEIGHT, WIDTH = {"train": 24, "val": 16, "test": 12}, 48, 36


@pytest.fixture(scope="module")
def shelves():
    return [shelf for category in CATEGORIES for shelf in draw_shelf(category, SIZES, 3)]


@pytest.fixture(scope="module")
def listings():
    return [item for category in FOLDERS for item in draw_listings(category, {"train": 9, "test": 4}, 3)]


@pytest.fixture(scope="module")
def drawn(shelves, listings, tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    write_fashioniq(root / "fashion_iq", shelves, HEIGHT, WIDTH, workers=1)
    for on in (True, False):
        write_fashioniq_cap(root / f"cap_{on}", shelves, 3, on)
    write_fashion200k(root / "fashion200k", listings, HEIGHT, WIDTH, workers=1)
    return root


@pytest.fixture
def copy(drawn, tmp_path):
    "A copy of the drawn folders that a test may damage."
    shutil.copytree(drawn, tmp_path / "copy")
    return tmp_path / "copy"


# What is drawn


def test_a_gallery_has_unique_targets_idle_pictures_and_true_texts(shelves):
    assert {(s.category, s.split) for s in shelves} == {(c, s) for c in CATEGORIES for s in SIZES}
    for shelf in shelves:
        targets = [q.target for q in shelf.queries]
        used = {i for q in shelf.queries for i in (q.reference, q.target)}
        assert len(shelf.garments) == SIZES[shelf.split] and len(targets) == len(set(targets)) == round(
            0.53 * len(shelf.garments)
        )
        assert used < set(shelf.garments) and all(
            re.fullmatch(r"B00[0-9A-Z]{7}", name) for name in shelf.garments
        )
        assert all(q.reference != q.target and len(q.captions) == 2 for q in shelf.queries)
        assert all(
            true_of(t, shelf.garments[q.reference], shelf.garments[q.target])
            for q in shelf.queries
            for t in q.captions
        )
        assert {g.kind for g in shelf.garments.values()} <= set(CATEGORIES[shelf.category])
        assert all(part_of(g) == "run" for g in shelf.garments.values())


def test_no_description_occurs_twice_in_a_category_and_no_id_at_all(shelves):
    for category in CATEGORIES:
        looks = [replace(g, seed=0) for s in shelves if s.category == category for g in s.garments.values()]
        assert len(looks) == len(set(looks)) == sum(SIZES.values())
    names = [name for s in shelves for name in s.garments]
    assert len(names) == len(set(names))


def test_references_are_like_their_targets():
    shelf = draw_shelf("toptee", {"val": 300}, 0)[0]
    near = [len(differences(shelf.garments[q.reference], shelf.garments[q.target])) for q in shelf.queries]
    chance = [
        len(differences(shelf.garments[a.reference], shelf.garments[b.target]))
        for a, b in zip(shelf.queries, shelf.queries[1:])
    ]
    assert np.mean(near) < 0.7 * np.mean(chance)
    assert len({(q.reference, q.captions) for q in shelf.queries}) == len(shelf.queries)


def test_equal_seeds_equal_shelves_and_sizes_are_checked(shelves):
    assert draw_shelf("dress", SIZES, 3) == [s for s in shelves if s.category == "dress"]
    assert draw_shelf("dress", {"val": 16}, 4) != draw_shelf("dress", {"val": 16}, 3)
    with pytest.raises(ValueError, match="too small"):
        draw_shelf("dress", {"val": 7}, 0)
    with pytest.raises(ValueError, match="validation"):
        draw_shelf("dress", {"validation": 20}, 0)


def test_guidance_keeps_the_released_form():
    assert (
        guidance_of(("is shiny and silver with shorter sleeves", "fit and flare"))
        == "Is shiny and silver with shorter sleeves, fit and flare"
    )
    assert guidance_of((" pink and red.", "Has Stripes.")) == "Pink and red, Has Stripes"


def test_a_guided_caption_repeats_the_query_without_what_it_replaces(shelves):
    shelf, took = shelves[1], []
    for q in shelf.queries:
        g = shelf.garments[q.target]
        texts = [
            guided_caption(
                g,
                ("is scarlet instead of aubergine", "has longer sleeves rather than cap sleeves"),
                np.random.default_rng(i),
            )
            for i in range(20)
        ]
        assert not any(
            "aubergine" in t or "instead" in t or "cap sleeves" in t
            for t in texts
            if g.color != "purple" and g.sleeve != "cap"
        )
        took.append(np.mean(["longer sleeves" in t for t in texts]))
    assert 0.3 < np.mean(took) < 0.6


# The files


def form(value):
    "The structure of a JSON value: types, keys in their order, lengths of short lists."
    if isinstance(value, dict):
        return tuple((key, form(v)) for key, v in value.items())
    if isinstance(value, list):
        return (
            "list",
            len(value) if len(value) < 3 else "many",
            tuple(sorted({form(v) for v in value}, key=str)),
        )
    return type(value).__name__


def test_files_have_the_official_names_and_keys(drawn):
    iq = drawn / "fashion_iq"
    assert {p.name for p in (iq / "captions").iterdir()} == {
        f"cap.{c}.{s}.json" for c in CATEGORIES for s in SPLITS
    }
    assert {p.name for p in (iq / "image_splits").iterdir()} == {
        f"split.{c}.{s}.json" for c in CATEGORIES for s in SPLITS
    }
    two = ("list", 2, ("str",))
    for category in CATEGORIES:
        for split in SPLITS:
            wanted = (("candidate", "str"), ("captions", two))
            if split != "test":
                wanted = (("target", "str"), *wanted)
            assert form(json.loads((iq / f"captions/cap.{category}.{split}.json").read_text())) == (
                "list",
                "many",
                (wanted,),
            )
            assert form(json.loads((iq / f"image_splits/split.{category}.{split}.json").read_text())) == (
                "list",
                "many",
                ("str",),
            )
        for split in ("train", "val"):
            rows = json.loads((drawn / f"cap_True/next_llava.{split}.{category}.caption.json").read_text())
            assert form(rows) == (
                "list",
                "many",
                ((("image", "str"), ("caption", "str"), ("text_guidance", "str")),),
            )
            assert all(r["caption"].startswith("\n") for r in rows)
        assert not (drawn / f"cap_True/next_llava.test.{category}.caption.json").exists()


def test_drawn_files_cannot_be_told_from_the_released_by_structure(drawn):
    root = annotations()
    for name in ("captions/cap.{}.{}.json", "image_splits/split.{}.{}.json"):
        for category in CATEGORIES:
            for split in SPLITS:
                texts = [
                    (folder / name.format(category, split)).read_text(encoding="utf-8")
                    for folder in (root / "fashion_iq", drawn / "fashion_iq")
                ]
                assert (
                    form(json.loads(texts[0])) == form(json.loads(texts[1]))
                    and [t.split('"')[0] for t in texts] == [texts[0].split('"')[0]] * 2
                )
    for category in CATEGORIES:
        name = f"next_llava.val.{category}.caption.json"
        assert form(json.loads((root / "unifashion_fashion_iq_cap" / name).read_text())) == form(
            json.loads((drawn / "cap_True" / name).read_text())
        )


def test_fashion200k_lines_and_folders(drawn, listings):
    files = {p.name for p in (drawn / "fashion200k/labels").iterdir()}
    assert files == {f"{c}_{s}_detect_all.txt" for c in FOLDERS for s in ("train", "test")} and set(
        FOLDERS
    ) == set(LABELS)
    sides = set()
    for name in files:
        for line in (drawn / "fashion200k/labels" / name).read_text().splitlines():
            path, score, text = line.split("\t")
            assert (
                re.fullmatch(r"women/[^/]+/[^/]+/(\d{8})/\1_\d\.jpeg", path)
                and 0.5 <= float(score) <= 1
                and 3 <= len(text.split()) <= 7
            )
            with Image.open(drawn / "fashion200k" / path) as image:
                sides.add(image.size)
                assert image.format == "JPEG" and image.mode == "RGB"
    assert len(sides) > 5 and all(w <= WIDTH and h <= HEIGHT for w, h in sides)  # cut out, so of all sizes
    assert len({item.id for item in listings}) == len(listings)
    assert all(agrees(item.text, item.garment) for item in listings)


# Round trips


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_fashioniq_reads_what_was_drawn(drawn, shelves, category, split):
    shelf = next(s for s in shelves if (s.category, s.split) == (category, split))
    found = read_fashioniq(drawn / "fashion_iq", category, split, check=True)
    assert (
        found.gallery.ids == found.gallery.products == list(shelf.garments) and found.gallery.split == split
    )
    target = (lambda q: q.target) if split != "test" else (lambda q: "")
    assert [(q.reference, q.target, q.captions) for q in found.queries] == [
        (q.reference, target(q), q.captions) for q in shelf.queries
    ]
    assert (
        found.queries[0].text == " and ".join(shelf.queries[0].captions)
        and found.queries[0].category == category
    )
    shapes = Counter()
    for i, (name, g) in enumerate(shelf.garments.items()):
        picture, wanted = found.gallery.image(i), draw(g, "front", HEIGHT, WIDTH)
        if picture.shape[1] == HEIGHT:
            wanted = on_square(wanted)
        shapes[picture.shape] += 1
        assert np.array_equal(picture, wanted)
    rows = found.rows
    assert all(found.gallery.ids[r] == q.reference for (r, _), q in zip(rows, found.queries))
    assert (
        (rows[:, 1] == -1).all()
        if split == "test"
        else [found.gallery.ids[t] for _, t in rows] == [q.target for q in shelf.queries]
    )


def test_truth_beside_the_files(drawn, shelves):
    assert read_truth(drawn / "fashion_iq") == shelves


def test_both_shapes_occur(drawn):
    sides = Counter(Image.open(p).size for p in (drawn / "fashion_iq/images").iterdir())
    assert (
        set(sides) == {(WIDTH, HEIGHT), (HEIGHT, HEIGHT)}
        and 0.08 < sides[HEIGHT, HEIGHT] / sides.total() < 0.35
    )


def test_the_union_gallery_keeps_every_query(drawn, shelves):
    found = read_fashioniq(drawn / "fashion_iq", "shirt", "val")
    union = found.union()
    used = {i for q in found.queries for i in (q.reference, q.target)}
    assert set(union.gallery.ids) == used and len(union.queries) == len(found.queries)
    assert [union.gallery.ids[t] for _, t in union.rows] == [q.target for q in found.queries]
    assert union.gallery.ids == [i for i in found.gallery.ids if i in used]


@pytest.mark.parametrize("on", [True, False])
def test_captions_read_back_and_the_guidance_stays_behind(drawn, shelves, on):
    for shelf in (s for s in shelves if s.split != "test"):
        root, where = drawn / f"cap_{on}", (shelf.category, shelf.split)
        gallery = read_fashioniq(drawn / "fashion_iq", *where).gallery
        captions, report = read_fashioniq_cap(root, *where, gallery)
        assert (
            list(captions) == gallery.ids
            and report.kept == len(gallery)
            and not any(c.startswith("\n") for c in captions.values())
        )
        told = audit_guidance(root, *where)
        guided = {name for name, text in told.items() if text}
        assert guided == ({q.target for q in shelf.queries} if on else set())
        assert all(told[q.target] == guidance_of(q.captions) for q in shelf.queries if on)
        if not on:
            assert all(agrees(captions[name], g) for name, g in shelf.garments.items())
        full = with_captions(gallery, captions)
        everything = json.dumps([full.columns, captions, str(report), [str(v) for v in vars(full).values()]])
        assert "guidance" not in everything and not any(
            json.dumps(text)[1:-1] in everything for text in told.values() if text
        )
        assert (
            full.texts == list(captions.values())
            and isinstance(full, Catalogue)
            and full.fingerprint != gallery.fingerprint
        )


def test_fashion200k_reads_what_was_drawn(drawn, listings):
    parts = {split: read_fashion200k(drawn / "fashion200k", split, check=True) for split in SPLITS}
    everything = [(s.product, s.text, s.category, s.view) for split in SPLITS for s in parts[split]]
    assert sorted(everything) == sorted(
        (i.id, i.text, i.category, k) for i in listings for k in range(len(i.views))
    )
    assert all(val_of(p) == (split == "val") for split in ("train", "val") for p in parts[split].products)
    by_id = {item.id: item for item in listings}
    for s in parts["test"]:
        item, picture = by_id[s.product], s.image.read()
        wanted = fashion200k_files._shape(
            draw(item.garment, item.views[s.view], HEIGHT, WIDTH), False, max(HEIGHT // 32, 1)
        )
        assert picture.shape == wanted.shape and np.abs(picture.astype(int) - wanted).mean() < 6  # JPEG
    assert {s.subcategory for s in parts["test"]} <= {
        f.split("/")[1] for kinds in FOLDERS.values() for f in kinds.values()
    }


@pytest.mark.parametrize("side", [(40, 30), (96, 72)])
def test_any_side(side, tmp_path):
    shelves = draw_shelf("dress", {"val": 8}, 0)
    found = read_fashioniq(write_fashioniq(tmp_path, shelves, *side, workers=1), "dress", "val")
    assert {found.gallery.image(i).shape for i in range(8)} <= {(*side, 3), (side[0], side[0], 3)}


def test_drawn_once_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    world, sizes = World("drawn", height=40, width=30, seed=2), {"val": 10}
    folder = drawn_fashioniq(world, sizes)
    monkeypatch.setattr(formats, "write_fashioniq", None)
    assert drawn_fashioniq(world, sizes) == folder
    assert {p.name for p in folder.iterdir()} == {
        "fashion_iq",
        "unifashion_fashion_iq_cap",
        "without_guidance",
    }
    found = open_composed(world, "toptee", "val", sizes)
    assert (
        len(found.gallery) == 10
        and found.queries
        and open_composed(world, "toptee", "val", sizes).gallery.fingerprint == found.gallery.fingerprint
    )
    cut = read_fashioniq(folder / "without_guidance/fashion_iq", "toptee", "val", pictures=False)
    assert cut.gallery.ids == found.gallery.ids and cut.queries == found.queries
    assert not any(
        audit_guidance(folder / "without_guidance/unifashion_fashion_iq_cap", "toptee", "val").values()
    )
    with pytest.raises(ValueError, match="unknown data set"):
        open_composed(World("vogue"), "dress", "val", sizes)
    labels = drawn_fashion200k(world, {"train": 4, "test": 2})
    assert (
        drawn_fashion200k(world, {"train": 4, "test": 2}) == labels
        and len(read_fashion200k(labels, "test").rows_of) == 10
    )


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))

    def fail(folder):
        folder.mkdir(parents=True)
        (folder / "half").write_text("x")
        raise RuntimeError("disk full")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="disk full"):
            fashion200k_files.drawn_once("thing", {"a": 1}, fail)
    assert not [p for p in (tmp_path / "thing").iterdir() if not p.name.startswith(".")]
    done = fashion200k_files.drawn_once("thing", {"a": 1}, lambda folder: folder.mkdir())
    assert (
        done.is_dir()
        and not list(done.parent.glob("*.tmp~"))
        and fashion200k_files.drawn_once("thing", {"a": 2}, lambda folder: folder.mkdir()) != done
    )


def test_drawn_again_they_are_the_same_files_at_any_time(monkeypatch, tmp_path):
    def build(folder):
        folder.mkdir()
        (folder / "a.png").write_bytes(b"a picture")

    def known_by(cache, settings):
        monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path / cache))
        folder = fashion200k_files.drawn_once("thing", settings, build)
        return FileStore(folder, ("a.png",)).fingerprint

    first = known_by("one", {"a": 1})
    assert known_by("two", {"a": 1}) == first
    assert known_by("two", {"a": 2}) != first, "other drawings, although of the same name and size"


# The released files


def annotations():
    root = Path(os.environ.get("UNIFASHION_DATA", ""), "annotations")
    if not os.environ.get("UNIFASHION_DATA") or not (root / "fashion_iq").exists():
        pytest.skip("UNIFASHION_DATA/annotations is absent")
    return root


COUNTS = {  # category -> split -> (queries, gallery)
    "dress": {"train": (5985, 11452), "val": (2017, 3817), "test": (2024, 3818)},
    "shirt": {"train": (5988, 19036), "val": (2038, 6346), "test": (2038, 6346)},
    "toptee": {"train": (6027, 16121), "val": (1961, 5373), "test": (2056, 5374)},
}


@pytest.mark.parametrize("category", COUNTS)
def test_the_released_annotations(category):
    root = annotations()
    for split, (queries, pictures) in COUNTS[category].items():
        found = read_fashioniq(root / "fashion_iq", category, split, pictures=False)
        assert (len(found.queries), len(found.gallery)) == (
            queries,
            pictures,
        ) and not found.report.skipped + found.gallery.report.skipped
        if split != "test":
            assert len({q.target for q in found.queries}) == queries
        if split == "val":
            assert len(found.union().gallery) == {"dress": 2628, "shirt": 3089, "toptee": 2902}[category]
        with pytest.raises(DataError, match="missing"):
            read_fashioniq(root / "fashion_iq", category, split)  # its pictures are not there


@pytest.mark.parametrize("category", COUNTS)
def test_the_released_captions(category):
    root = annotations()
    found = read_fashioniq(root / "fashion_iq", category, "val", pictures=False)
    captions, report = read_fashioniq_cap(root / "unifashion_fashion_iq_cap", category, "val", found.gallery)
    assert (
        list(captions) == found.gallery.ids
        and not report.skipped
        and not any(c[:1].isspace() for c in captions.values())
    )
    told = audit_guidance(root / "unifashion_fashion_iq_cap", category, "val")
    assert {name for name, text in told.items() if text} == {q.target for q in found.queries}
    words = lambda text: re.findall(r"\w+", text.lower())
    assert all(words(told[q.target]) == words(" ".join(q.captions)) for q in found.queries)
    assert len(with_captions(found.gallery, captions)) == COUNTS[category]["val"][1]


# Damage: each case ends in a named error, or is counted


def edit(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    done = change(value)
    path.write_text(json.dumps(value if done is None else done))


CAP, SPLIT = "fashion_iq/captions/cap.dress.val.json", "fashion_iq/image_splits/split.dress.val.json"
ROWS = {  # name: (file, change of its JSON, kind, row)
    "no target": (CAP, lambda v: v[2].pop("target") and None, "wrong key", 2),
    "no captions": (CAP, lambda v: v[0].pop("captions") and None, "wrong key", 0),
    "a row that is a list": (CAP, lambda v: v.insert(1, ["x"]), "wrong key", 1),
    "captions of one": (CAP, lambda v: v[1].update(captions=["longer"]), "wrong captions", 1),
    "captions as text": (CAP, lambda v: v[1].update(captions="longer"), "wrong captions", 1),
    "captions of numbers": (CAP, lambda v: v[1].update(captions=[1, 2]), "wrong type", 1),
    "captions of null": (CAP, lambda v: v[1].update(captions=[None, "red"]), "wrong type", 1),
    "both blank": (CAP, lambda v: v[1].update(captions=[" ", "\n"]), "no text", 1),
    "10,000 words": (CAP, lambda v: v[3].update(captions=["very " * 10_000, "red"]), "overlong text", 3),
    "half a character": (CAP, lambda v: v[3].update(captions=["a \ud83d", "red"]), "not UTF-8", 3),
    "unknown target": (CAP, lambda v: v[3].update(target="B00NOWHERE"), "unknown id", 3),
    "unknown candidate": (CAP, lambda v: v[3].update(candidate="B00NOWHERE"), "unknown id", 3),
    "its own target": (CAP, lambda v: v[3].update(candidate=v[3]["target"]), "duplicate id", 3),
    "target above the folder": (CAP, lambda v: v[3].update(target="../B00X"), "path leaves the folder", 3),
    "target is a number": (CAP, lambda v: v[3].update(target=17), "wrong id", 3),
    "duplicate picture": (SPLIT, lambda v: v.append(v[0]), "duplicate id", 16),
    "picture without file": (SPLIT, lambda v: v.append("B00NOWHERE"), "missing picture", 16),
    "picture above the folder": (SPLIT, lambda v: v.append("../../secret"), "path leaves the folder", 16),
    "absolute picture": (SPLIT, lambda v: v.append("/etc/passwd"), "path leaves the folder", 16),
    "picture with a drive": (SPLIT, lambda v: v.append("..\\secret"), "path leaves the folder", 16),
    "picture with a zero byte": (SPLIT, lambda v: v.append("B00\0A"), "wrong id", 16),
    "picture of half a character": (SPLIT, lambda v: v.append("\ud83d"), "wrong id", 16),
    "picture with an endless name": (SPLIT, lambda v: v.append("B" * 5000), "wrong id", 16),
    "picture is a number": (SPLIT, lambda v: v.append(3), "wrong type", 16),
    "picture is null": (SPLIT, lambda v: v.append(None), "wrong type", 16),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_of_fashioniq(copy, case):
    file, change, kind, row = ROWS[case]
    edit(copy / file, change)
    with pytest.raises(DataError) as caught:
        read_fashioniq(copy / "fashion_iq", "dress", "val")
    assert (caught.value.kind, caught.value.row, caught.value.file.name) == (kind, row, Path(file).name)
    found = read_fashioniq(copy / "fashion_iq", "dress", "val", on_error="skip")
    report = found.report if file == CAP else found.gallery.report
    assert report.counts == {kind: 1} and report.skipped[0].row == row
    assert len(found.gallery) == 16 and len(found.queries) == 8 - (file == CAP) + (
        case == "a row that is a list"
    )


WHOLE = {  # name: (bytes, kind)
    "empty": (b"", "broken JSON"),
    "blank": (b"\n\n", "broken JSON"),
    "cut": (b'[{"target": "B0', "broken JSON"),
    "no JSON": (b"PK\x03\x04", "broken JSON"),
    "an object": (b"{}", "wrong shape"),
    "a number": (b"7", "wrong shape"),
    "null": (b"null", "wrong shape"),
    "an empty list": (b"[]", "empty split"),
    "latin-1": ('["caf\xe9"]'.encode("latin-1"), "not UTF-8"),
    "UTF-16 without its mark": ("[]".encode("utf-16-le"), "not UTF-8"),
    "nested without end": (b"[" * 100_000, "broken JSON"),
    "a number of 10,000 digits": (b"[" + b"9" * 10_000 + b"]", "broken JSON"),
}


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("case", WHOLE)
def test_a_bad_file_is_an_error_in_any_case(copy, case, on_error):
    data, kind = WHOLE[case]
    cap = copy / "cap_True/next_llava.val.dress.caption.json"
    for path, read in (
        (copy / CAP, lambda: read_fashioniq(copy / "fashion_iq", "dress", "val", on_error)),
        (copy / SPLIT, lambda: read_fashioniq(copy / "fashion_iq", "dress", "val", on_error)),
        (cap, lambda: read_fashioniq_cap(copy / "cap_True", "dress", "val", on_error=on_error)),
    ):
        before = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            read()
        assert caught.value.kind == kind and caught.value.file.name == path.name, (
            path.name,
            str(caught.value),
        )
        path.unlink()
        with pytest.raises(DataError) as caught:
            read()
        assert caught.value.kind == "missing file"
        path.write_bytes(before)
        read()


def test_bom_and_crlf_are_read_as_if_they_were_not_there(copy):
    before = (
        read_fashioniq(copy / "fashion_iq", "dress", "val"),
        read_fashioniq_cap(copy / "cap_True", "dress", "val")[0],
    )
    lines = read_fashion200k(copy / "fashion200k", "test").texts
    for path in [*copy.rglob("*.json"), *copy.rglob("*.txt")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = (
        read_fashioniq(copy / "fashion_iq", "dress", "val"),
        read_fashioniq_cap(copy / "cap_True", "dress", "val")[0],
    )
    assert (
        after[0].gallery.ids == before[0].gallery.ids
        and after[0].queries == before[0].queries
        and after[1] == before[1]
    )
    assert read_fashion200k(copy / "fashion200k", "test").texts == lines


def test_one_blank_sentence_is_kept_and_noted(copy):
    edit(copy / CAP, lambda v: v[0].update(captions=["", " red "]))
    found = read_fashioniq(copy / "fashion_iq", "dress", "val")
    assert (
        found.queries[0].captions == ("red",)
        and found.queries[0].text == "red"
        and found.report.notes["blank sentence"] == 1
    )
    edit(copy / CAP, lambda v: v[0].update(target=v[1]["target"], candidate=v[1]["candidate"]))
    assert read_fashioniq(copy / "fashion_iq", "dress", "val").report.notes["target asked for before"] == 1


def test_pictures_missing_broken_linked_and_of_another_ending(copy, tmp_path):
    images, root = copy / "fashion_iq/images", copy / "fashion_iq"
    found = read_fashioniq(root, "dress", "val")
    idle = [
        i for i in found.gallery.ids if i not in {x for q in found.queries for x in (q.reference, q.target)}
    ]
    asked = found.queries[0].target
    Image.open(images / f"{idle[0]}.png").convert("RGB").save(images / f"{idle[0]}.jpg")
    (images / f"{idle[0]}.png").unlink()
    again = read_fashioniq(root, "dress", "val")
    assert again.gallery.ids == found.gallery.ids and again.gallery.keys[
        found.gallery.ids.index(idle[0])
    ].endswith(".jpg")
    (images / f"{idle[1]}.png").unlink()
    secret = tmp_path / "secret.png"
    shutil.copy(images / f"{idle[2]}.png", secret)
    (images / f"{idle[2]}.png").unlink()
    (images / f"{idle[2]}.png").symlink_to(secret)
    (images / f"{asked}.png").write_bytes(b"")
    skipped = read_fashioniq(root, "dress", "val", on_error="skip", check=True)
    assert skipped.gallery.report.counts == {
        "missing picture": 1,
        "path leaves the folder": 1,
        "unreadable picture": 1,
    }
    lost = sum(asked in (q.reference, q.target) for q in found.queries)
    assert (
        skipped.report.counts == {"missing picture": lost}
        and len(skipped.gallery) == 13
        and len(skipped.queries) == 8 - lost
    )
    lazy = read_fashioniq(root, "dress", "val", on_error="skip")
    with pytest.raises(DataError, match="unreadable"):
        lazy.gallery.image(lazy.gallery.ids.index(asked))
    shutil.rmtree(images)
    with pytest.raises(DataError) as caught:
        read_fashioniq(root, "dress", "val", on_error="skip")
    assert (
        caught.value.kind == "empty split"
        and len(read_fashioniq(root, "dress", "val", pictures=False).gallery) == 16
    )


def test_unknown_categories_and_splits(drawn):
    for where, kind in ((("coat", "val"), "unknown category"), (("dress", "validation"), "unknown split")):
        with pytest.raises(DataError) as caught:
            read_fashioniq(drawn / "fashion_iq", *where)
        assert caught.value.kind == kind
    with pytest.raises(DataError, match="no split"):
        read_fashion200k(drawn / "fashion200k", "dev")
    with pytest.raises(ValueError, match="none"):
        write_fashioniq(drawn / "x", [], 8, 6)
    with pytest.raises(ValueError, match="none"):
        write_fashion200k(drawn / "x", [], 8, 6)
    with pytest.raises(ValueError, match="val"):
        draw_listings("top", {"val": 2}, 0)


@pytest.mark.parametrize(
    "change, kind, row",
    [
        (lambda v: v[1].pop("text_guidance"), "wrong key", 1),
        (lambda v: v[1].update(caption=None), "wrong type", 1),
        (lambda v: v[1].update(caption="\n "), "no text", 1),
        (lambda v: v[1].update(caption="so " * (LONGEST + 1)), "overlong text", 1),
        (lambda v: v[1].update(image=v[0]["image"]), "duplicate id", 1),
        (lambda v: v[1].update(image="B00NOWHERE"), "unknown id", 1),
        (lambda v: v[1].update(image="../x"), "path leaves the folder", 1),
        (lambda v: v.append(5), "wrong key", 16),
    ],
)
def test_a_bad_row_of_the_captions(copy, change, kind, row):
    edit(copy / "cap_True/next_llava.val.dress.caption.json", lambda v: (change(v), None)[1])
    gallery = read_fashioniq(copy / "fashion_iq", "dress", "val").gallery
    with pytest.raises(DataError) as caught:
        read_fashioniq_cap(copy / "cap_True", "dress", "val", gallery)
    assert (caught.value.kind, caught.value.row) == (kind, row)
    captions, report = read_fashioniq_cap(copy / "cap_True", "dress", "val", gallery, on_error="skip")
    assert report.counts == {kind: 1} and len(captions) == 15 + (row == 16)
    if row == 1:
        with pytest.raises(DataError, match="no caption for 1"):
            with_captions(gallery, captions)


LINES = {  # name: (line, kind)
    "two fields": (b"women/a/b/1/1_0.jpeg\tred dress", "wrong field count"),
    "four fields": (b"women/a/b/1/1_0.jpeg\t1\tred\tdress", "wrong field count"),
    "no score": (b"women/a/b/1/1_0.jpeg\thigh\tred dress", "wrong score"),
    "nan": (b"women/a/b/1/1_0.jpeg\tnan\tred dress", "wrong score"),
    "inf": (b"women/a/b/1/1_0.jpeg\t-inf\tred dress", "wrong score"),
    "dots": (b"women/../../1/1_0.jpeg\t1\tred dress", "path leaves the folder"),
    "absolute": (b"/etc/women/1/1_0.jpeg\t1\tred dress", "path leaves the folder"),
    "backslash": (b"women\\..\\1\\1_0.jpeg\t1\tred", "path leaves the folder"),
    "zero byte": (b"women/a/b/1/1\0_0.jpeg\t1\tred dress", "zero byte"),
    "no product": (b"1_0.jpeg\t1\tred dress", "wrong id"),
    "no number": (b"women/a/b/1/one.jpeg\t1\tred dress", "wrong id"),
    "no picture": (b"women/a/b/1/1_0.jpeg\t1\tred dress", "missing picture"),
    "latin-1": ("women/a/b/1/1_0.jpeg\t1\tcr\xeape".encode("latin-1"), "not UTF-8"),
    "10,000 words": (b"women/a/b/1/1_0.jpeg\t1\t" + b"so " * 10_000, "overlong text"),
    "a number without end": (b"women/a/b/1/1_" + b"9" * 6000 + b".jpeg\t1\tred dress", "wrong id"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_bad_line_of_fashion200k(copy, case):
    line, kind = LINES[case]
    path, whole = (
        copy / "fashion200k/labels/skirt_test_detect_all.txt",
        read_fashion200k(copy / "fashion200k", "test"),
    )
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    with pytest.raises(DataError) as caught:
        read_fashion200k(copy / "fashion200k", "test")
    assert (caught.value.kind, caught.value.row, caught.value.file.name) == (kind, 3, path.name)
    found = read_fashion200k(copy / "fashion200k", "test", on_error="skip")
    assert found.report.counts == {kind: 1} and found.ids == whole.ids


def test_fashion200k_files_missing_empty_and_linked(copy, tmp_path):
    root = copy / "fashion200k"
    whole = read_fashion200k(root, "test")
    lines = (root / "labels/top_test_detect_all.txt").read_text().splitlines(keepends=True)
    (root / "labels/top_test_detect_all.txt").write_text(
        "".join(lines + lines[:1] + ["\n"] + [lines[0].split("\t")[0] + "\t1\t \n"])
    )
    with pytest.raises(DataError, match="duplicate"):
        read_fashion200k(root, "test")
    assert read_fashion200k(root, "test", on_error="skip").report.counts == {"duplicate id": 2}
    (root / "labels/top_test_detect_all.txt").unlink()
    with pytest.raises(DataError, match="missing"):
        read_fashion200k(root, "test")
    fewer = read_fashion200k(root, "test", on_error="skip")
    assert fewer.report.counts == {"missing file": 1} and set(fewer.categories) == set(LABELS) - {"top"}
    picture = root / fewer.keys[0]
    shutil.move(picture, tmp_path / "away.jpeg")
    picture.symlink_to(tmp_path / "away.jpeg")
    assert read_fashion200k(root, "test", on_error="skip").report.counts == {
        "missing file": 1,
        "path leaves the folder": 1,
    }
    for category in LABELS:
        (root / f"labels/{category}_test_detect_all.txt").write_text("")
    with pytest.raises(DataError) as caught:
        read_fashion200k(root, "test", on_error="skip")
    assert caught.value.kind == "empty split" and len(whole) > len(fewer)
