"Sample types, the catalogue, reports, stores: behaviour, round trips, pickling, damage."

import gzip
import io
import multiprocessing
import pickle
import subprocess
import sys
import tarfile

import h5py
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from unifashion.data.samples import (
    Catalogue,
    CatalogueBuilder,
    DataError,
    ImageRef,
    ImageText,
    Report,
    Triplet,
    TryOn,
    hash_share,
    val_of,
)
from unifashion.data.stores import (
    ArrayStore,
    BytesStore,
    FileStore,
    TarStore,
    decode,
    file_mark,
    inside,
    tar_index,
)
from unifashion.data.texts import json_lines, parse_json, read_json, text_lines


class Greys:
    fingerprint = "greys"

    def read(self, key):
        if key < 0:
            raise DataError("no such grey", "greys", key, "missing picture")
        return np.full((4, 3, 3), key, np.uint8)

    def label(self, key):
        return f"greys#{key}"


def encoded(value=90, size=(6, 8), mode="RGB", format="JPEG", **options):
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, format, **options)
    return buffer.getvalue()


def catalogue(n=6, **changes):
    columns = dict(
        id=[f"{k // 2}_{k % 2}" for k in range(n)],
        product=[str(k // 2) for k in range(n)],
        text=[f"text {k // 2}" for k in range(n)],
        view=[k % 2 for k in range(n)],
        subcategory=["A"] * n,
        **changes,
    )
    return Catalogue("greys", "test", columns, Greys(), list(range(n)))


def write_tar(path, names, data=None, format=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=format) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(data or encoded())
            tar.addfile(member, io.BytesIO(data or encoded()))


def test_error_names_file_and_row_and_crosses_processes():
    error = DataError("no text", "a/b.csv", 3, "no text")
    assert "b.csv" in str(error) and "row 3" in str(error) and isinstance(error, ValueError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.row, again.kind) == (str(error), 3, "no text")


def test_report_raises_or_counts():
    with pytest.raises(DataError, match="row 1"):
        Report().reject("bad", "f", 1)
    report = Report("skip")
    for row in range(3):
        report.reject(f"bad {row}", "f", row, "bad")
    assert report.counts == {"bad": 3} and "3 x bad (first: f, row 0)" in str(report)
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        Report("ignore")


def test_catalogue_is_a_sequence():
    c = catalogue()
    assert (
        len(c) == 6
        and c[-1].id == "2_1"
        and isinstance(c[0], ImageText)
        and [s.view for s in c] == [0, 1] * 3
    )
    with pytest.raises(IndexError):
        c[6]
    assert c[1:3].ids == ["0_1", "1_0"] and c.first_views().ids == ["0_0", "1_0", "2_0"]
    assert (c[3].image.read() == c.image(3)).all() and c[3].image.name == "greys#3"
    assert c.categories == [""] * 6 and c.column("split") == ["test"] * 6 and c.rows_of["1"] == [2, 3]
    with pytest.raises(ValueError, match="unequal"):
        Catalogue("x", "test", dict(id=["1"], product=["1"], text=["t"]), Greys(), [0, 1])


def test_catalogue_is_lazy():
    class Never(Greys):
        def read(self, key):
            raise AssertionError("read too early")

    c = Catalogue("x", "test", dict(id=["1"], product=["1"], text=["t"]), Never(), [0])
    assert c[0].text == "t" and c.fingerprint and len(c.first_views()) == 1


def test_fingerprint_sees_content_and_nothing_else():
    assert (
        catalogue().fingerprint
        == catalogue().fingerprint
        == pickle.loads(pickle.dumps(catalogue())).fingerprint
    )
    others = [catalogue(5), catalogue().select([1, 0, 2, 3, 4, 5]), catalogue(title=["t"] * 6)]
    assert len({c.fingerprint for c in [catalogue(), *others]}) == 4


def test_val_is_a_tenth_and_keeps_products_together():
    chosen = [p for p in map(str, range(20000)) if val_of(p)]
    assert 1800 < len(chosen) < 2200 and chosen == [p for p in map(str, range(20000)) if val_of(p)]
    assert all(0 <= hash_share(p, "val") < 0.1 for p in chosen) and not val_of("1", share=0)
    assert hash_share("1", "val") != hash_share("1", "test")


def test_rows_refuse_duplicates_empty_texts_and_empty_splits():
    with pytest.raises(DataError, match="row 9: duplicate id 'a'"):
        rows = CatalogueBuilder("f")
        rows.add(8, 0, id="a", product="a", text="t")
        rows.add(9, 1, id="a", product="a", text="t")
    with pytest.raises(DataError, match="no text"):
        CatalogueBuilder("f").add(1, 0, id="a", product="a", text="")
    with pytest.raises(DataError, match="holds no rows"):
        CatalogueBuilder("f", "skip").catalogue("x", "val", Greys())


def test_rows_check_reads_every_picture():
    rows = CatalogueBuilder("f", "skip")
    for row, key in enumerate((1, -1, 2)):
        rows.add(row, key, id=str(row), product=str(row), text="t")
    rows.check(Greys())
    c = rows.catalogue("x", "test", Greys())
    assert c.ids == ["0", "2"] and c.report.counts == {"missing picture": 1} and c.report.kept == 2


def test_triplets_and_try_on():
    assert Triplet("0", "1", "2", ("is red", "is long")).text == "is red and is long"
    image = ImageRef(Greys(), 5)
    sample = TryOn("0", image, sketch=image, agnostic_mask=image)
    assert sample.conditions == ("agnostic_mask", "sketch") and sample.garment is None


# stores


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", encoded()[:60], encoded(format="PNG")[:50]],
    ids=["empty", "text", "cut jpeg", "cut png"],
)
def test_decode_refuses(data):
    with pytest.raises(DataError, match="x.tar, row 7.jpg: truncated or unreadable"):
        decode(data, "x.tar", "7.jpg")


def test_decode_modes_and_orientation():
    for mode, value in (("L", 7), ("P", 0), ("CMYK", (0, 0, 0, 0))):
        assert decode(encoded(value, mode=mode, format="TIFF")).shape == (8, 6, 3)
    assert (decode(encoded((255, 0, 0, 0), mode="RGBA", format="PNG")) == 255).all()  # transparent: white
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a phone
    assert decode(encoded(exif=exif)).shape == (6, 8, 3)


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "link/x.jpg"])
def test_inside_refuses(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leads out of the data folder"):
        inside(root, name, 3, "f.csv")
    with pytest.raises(DataError):
        FileStore(root).read(name)


def test_inside_allows_a_linked_root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "root", "x.jpg").name == "x.jpg"


@pytest.fixture
def folder(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.jpg").write_bytes(encoded((40 * k, 90, 200)))
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for k in range(3):
            tar.add(tmp_path / f"{k}.jpg", arcname=f"{k}.jpg")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["input_image"] = np.stack([decode((tmp_path / f"{k}.jpg").read_bytes()) for k in range(3)])
    return tmp_path


def stores(folder):
    files = FileStore(folder, ("0.jpg", "1.jpg", "2.jpg"))
    return [
        (files, files.names),
        (TarStore(folder / "a.tar", tar_index(folder / "a.tar")), files.names),
        (ArrayStore(folder / "a.h5"), (0, 1, 2)),
        (BytesStore([(folder / n).read_bytes() for n in files.names]), (0, 1, 2)),
    ]


def read_one(job):
    return job[0].read(job[1])


def test_stores_agree_here_and_in_other_processes(folder):
    want = [FileStore(folder).read(f"{k}.jpg") for k in range(3)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for store, keys in stores(folder):
            assert all((store.read(k) == w).all() for k, w in zip(keys, want))
            assert all((g == w).all() for g, w in zip(pool.map(read_one, [(store, k) for k in keys]), want))


@pytest.mark.parametrize("which", range(4), ids=["folder", "tar", "array", "bytes"])
def test_stores_pickle_without_handles_and_name_what_is_missing(folder, which):
    store, keys = stores(folder)[which]
    store.read(keys[0])
    again = pickle.loads(pickle.dumps(store))
    assert (again.read(keys[2]) == store.read(keys[2])).all() and again.fingerprint == store.fingerprint
    if which < 3:
        with pytest.raises(DataError):
            store.read(99 if which == 2 else "99.jpg")


def test_array_reads_after_fork(folder):
    # handle open before the fork
    store = ArrayStore(folder / "a.h5")
    store.read(0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert (pool.map(read_one, [(store, 2)])[0] == store.read(2)).all()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_index_agrees_with_the_library(tmp_path, format):
    write_tar(
        tmp_path / "a.tar",
        ["1.jpg", "./2.jpg", "d/" + "x" * 90 + ".jpg", "y" * 60 + "/" + "z" * 70 + ".jpg"],
        format=format,
    )
    with tarfile.open(tmp_path / "a.tar") as tar:
        want = {m.name.removeprefix("./"): (m.offset_data, m.size) for m in tar}
    assert tar_index(tmp_path / "a.tar") == want


def damage_cut(path):
    write_tar(path, ["1.jpg", "2.jpg"])
    path.write_bytes(path.read_bytes()[:1600])


def damage_header(path):
    write_tar(path, ["1.jpg", "2.jpg"])
    data = bytearray(path.read_bytes())
    data[10] = 65
    path.write_bytes(data)


def damage_twice(path):
    write_tar(path, ["1.jpg", "1.jpg"])


def damage_gone(path):
    pass


def damage_text(path):
    path.write_text("this is no tar\n" * 100)


def damage_link(path):
    write_tar(path, ["1.jpg"])
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("2.jpg")
        member.type = tarfile.SYMTYPE
        member.linkname = "/etc/passwd"
        tar.addfile(member)


@pytest.mark.parametrize(
    "damage, kind",
    [
        (damage_cut, "truncated tar"),
        (damage_header, "damaged tar"),
        (damage_twice, "duplicate id"),
        (damage_gone, "missing file"),
        (damage_text, "damaged tar"),
        (damage_link, "link in tar"),
    ],
)
def test_damaged_tars(tmp_path, damage, kind):
    damage(tmp_path / "a.tar")
    with pytest.raises(DataError) as found:
        tar_index(tmp_path / "a.tar")
    assert found.value.kind == kind and found.value.file.name == "a.tar"
    report = Report("skip")
    if kind != "missing file":
        assert set(tar_index(tmp_path / "a.tar", report)) <= {"1.jpg"} and report.counts == {kind: 1}


def test_tar_restores_an_aspect(tmp_path):
    write_tar(tmp_path / "a.tar", ["1.jpg"], encoded(size=(8, 8)))
    assert TarStore(tmp_path / "a.tar", tar_index(tmp_path / "a.tar"), (8, 6)).read("1.jpg").shape == (
        8,
        6,
        3,
    )


def test_h5_damage(tmp_path):
    with pytest.raises(DataError, match="missing"):
        ArrayStore(tmp_path / "no.h5").read(0)
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match="HDF5"):
        ArrayStore(tmp_path / "bad.h5").read(0)


def test_file_mark_samples_large_files(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(5000))
    small, sampled = file_mark(path), file_mark(path, whole=100, block=64)
    path.write_bytes(bytes(4999) + b"x")
    assert small != file_mark(path) and sampled != file_mark(path, whole=100, block=64)


@pytest.mark.parametrize(
    "line, kind", [(b'{"a": ', "broken JSON"), (b"[1]", "broken JSON"), (b'{"a": "\xe9"}', "not UTF-8")]
)
def test_bad_lines(tmp_path, line, kind):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' + line + b'\n\n{"a": 2}\n')
    with pytest.raises(DataError, match="row 2") as found:
        list(json_lines(tmp_path / "a.jsonl", Report()))
    report = Report("skip")
    assert found.value.kind == kind and [v["a"] for _, v in json_lines(tmp_path / "a.jsonl", report)] == [
        1,
        2,
    ]
    assert report.counts == {kind: 1}


def test_text_files(tmp_path):
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert list(text_lines(tmp_path / "bom.txt", Report())) == [(1, "a"), (2, "b")]
    data = gzip.compress(b"a\n" * 5000)
    (tmp_path / "cut.gz").write_bytes(data[:-12])
    with pytest.raises(DataError, match="broken after"):
        list(text_lines(tmp_path / "cut.gz", Report()))
    with pytest.raises(DataError, match="missing"):
        list(text_lines(tmp_path / "no.gz", Report("skip")))
    (tmp_path / "bad.json").write_text('{"a": 1,\n}')
    with pytest.raises(DataError, match="row 2"):
        read_json(tmp_path / "bad.json")


def test_lines_and_values_whoever_saved_them(tmp_path):
    text = '{"id": "é"}\n{"id": "b"}\n'
    want = [(1, {"id": "é"}), (2, {"id": "b"})]
    for data in (
        text.replace("\n", "\r").encode(),
        text.replace("\n", "\r\r\n").encode("utf-8-sig"),
        text.encode("utf-16"),
        text.encode("utf-32"),
    ):
        (tmp_path / "a.jsonl").write_bytes(data)
        assert list(json_lines(tmp_path / "a.jsonl", Report())) == want
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
        assert list(json_lines(tmp_path / "a.jsonl.gz", Report())) == want
    (tmp_path / "a.json").write_bytes('{"a": ["é"]}'.encode("utf-16"))
    assert read_json(tmp_path / "a.json") == {"a": ["é"]}
    assert parse_json((tmp_path / "a.json").read_bytes(), "a.json") == {"a": ["é"]}


def test_a_zero_byte_is_a_bad_line_and_utf_16_without_its_mark_a_bad_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\nt\0wo\nthree\n")
    report = Report("skip")
    assert list(text_lines(tmp_path / "a.txt", report)) == [(1, "one"), (3, "three")]
    assert [(e.row, e.kind) for e in report.skipped] == [(2, "zero byte")]
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le"):
        (tmp_path / "a.txt").write_bytes("one\ntwo\n".encode(encoding))
        with pytest.raises(DataError, match="a.txt: looks like UTF-16 without a byte order mark"):
            list(text_lines(tmp_path / "a.txt", Report("skip")))
    (tmp_path / "a.txt").write_bytes("one".encode("utf-16")[:-1])
    with pytest.raises(DataError, match="broken UTF-16"):
        list(text_lines(tmp_path / "a.txt", Report("skip")))


def test_no_torch_in_the_data_chapters():
    code = "import sys, unifashion.data.catalogues, unifashion.data.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
