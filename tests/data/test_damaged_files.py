"""Bytes of data files damaged by hand:
whatever a library says of them, the reader's error has the file's name.
And HDF5 files are read without a lock."""

import fcntl
import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from unifashion.data.catalogues import NEEDED, read_fashiongen
from unifashion.data.doors import guarded, open_h5
from unifashion.data.samples import DataError, Report
from unifashion.data.stores import (
    ArrayStore,
    BytesStore,
    FileStore,
    TarStore,
    decode,
    tar_index,
)
from unifashion.data.texts import json_lines, parse_json, read_json
from unifashion.data.tryon_stores import MapStore, PoseStore, TarMaps, UVStore, picture_size

NAME = "fashiongen_8_8_validation.h5"


@pytest.fixture
def h5(tmp_path):
    "Three pictures in FashionGen's form, in HDF5's oldest layout, which has no checksums; compressed."
    path = tmp_path / NAME
    with h5py.File(path, "w", libver="earliest") as file:
        pixels = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
        file.create_dataset("input_image", data=pixels, chunks=(1, 8, 8, 3), compression="gzip")
        for name in NEEDED[1:]:
            file[name] = np.array([f"{name} {k}".encode() for k in range(3)])
        file["input_name"].attrs["of_the_house"] = "Atelier"
    return path


def header_of(path, name):
    "The place of an object's header in the file."
    with h5py.File(path, "r") as file:
        return h5py.h5o.get_info(file[name].id).addr


def change(path, at, new):
    data = bytearray(path.read_bytes())
    assert data[at : at + len(new)] != new, "this changes nothing"
    data[at : at + len(new)] = new
    path.write_bytes(data)


# HDF5


def test_whole_file_is_read(h5):
    assert len(read_fashiongen(h5.parent, "test", check=True)) == 3


@pytest.mark.parametrize(
    "mark, new",
    [
        (b"\x89HDF", b"\x89HDG"),  # no superblock
        (b"\x89HDF\r\n\x1a\n\0", b"\x89HDF\r\n\x1a\n\x09"),  # a version that is none
        (b"TREE", b"TREF"),  # group listing
        (b"SNOD", b"SNOO"),  # symbol table
        (b"HEAP", b"HEAQ"),  # names of the members
        (b"input_description\0", b"input_\xff\xfe\xfdscription\0"),  # a name that is no text
    ],
)
def test_damaged_structure_is_named(h5, mark, new):
    change(h5, h5.read_bytes().index(mark), new)
    with pytest.raises(DataError, match=NAME) as found:
        read_fashiongen(h5.parent, "test", check=True)
    assert found.value.file.name == NAME and found.value.kind in ("damaged HDF5", "wrong key")
    with pytest.raises(DataError, match=NAME):
        read_fashiongen(h5.parent, "test", on_error="skip", check=True)


@pytest.mark.parametrize("name", ["input_image", "input_name"])
@pytest.mark.parametrize("offset, new", [(0, b"\x63"), (8, b"\xff\xff\xff\x7f"), (16, b"\x63")])
def test_damaged_object_header_is_named(h5, name, offset, new):
    "Version, size of the header, type of the first message."
    change(h5, header_of(h5, name) + offset, new)
    with pytest.raises(DataError, match=NAME):
        read_fashiongen(h5.parent, "test", check=True)


def test_damaged_type_of_an_attribute_is_named(h5):
    at = h5.read_bytes().index(b"of_the_house\0")
    change(h5, at + 16, b"\x1f")  # class 15 of 11, behind the name, which takes 16 bytes
    with pytest.raises(DataError, match=NAME), open_h5(h5) as file:
        dict(file["input_name"].attrs)


def test_damage_met_later_is_named_with_its_row(h5):
    "The catalogue opens; one picture's stream is broken; the others stay readable."
    with h5py.File(h5, "r") as file:
        chunk = file["input_image"].id.get_chunk_info(1)
    change(h5, chunk.byte_offset + 2, b"\xff" * 6)
    catalogue = read_fashiongen(h5.parent, "test")
    assert catalogue.image(0).shape == catalogue.image(2).shape == (8, 8, 3)
    with pytest.raises(DataError, match=f"{NAME}, row 1") as found:
        catalogue.image(1)
    assert found.value.kind == "unreadable picture"


def test_what_the_block_does_not_find_is_named_and_its_own_error_kept(h5):
    with pytest.raises(DataError, match=f"{NAME}.*no_such"):
        with open_h5(h5) as file:
            file["no_such"]
    with pytest.raises(DataError, match="my own"), open_h5(h5):
        raise DataError("my own", "elsewhere")


# Locks


def test_a_file_that_is_only_read_is_read_without_a_lock(h5):
    with open(h5, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as on a disk whose locks are refused
        with pytest.raises(OSError, match="lock"):
            h5py.File(h5, "r")
        assert ArrayStore(h5).read(2).shape == (8, 8, 3)


def test_a_file_that_this_process_has_open_is_read_too(h5):
    with h5py.File(h5, "r"):
        assert ArrayStore(h5).read(2).shape == (8, 8, 3)


def test_where_locks_are_forced_and_refused_the_file_is_not_called_damaged(h5):
    code = (
        "import sys, fcntl\n"
        "from unifashion.data.stores import ArrayStore\n"
        "held = open(sys.argv[1], 'rb')\n"
        "fcntl.flock(held, fcntl.LOCK_EX)\n"
        "try: ArrayStore(sys.argv[1]).read(0)\n"
        "except ValueError as error: print(error.kind, error)"
    )
    env = os.environ | {"HDF5_USE_FILE_LOCKING": "TRUE"}
    done = subprocess.run([sys.executable, "-c", code, h5], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.stdout.startswith("locked file") and "HDF5_USE_FILE_LOCKING=FALSE" in done.stdout, done


def test_what_the_system_refuses_is_not_called_damaged(tmp_path):
    (tmp_path / "a.h5").mkdir()
    with pytest.raises(DataError, match=r"a\.h5: cannot be opened") as found:
        ArrayStore(tmp_path / "a.h5").read(0)
    assert found.value.kind == "missing file"


# npz


def npz(path, compressed=True):
    save = np.savez_compressed if compressed else np.savez
    save(path, uv=np.random.default_rng(0).random((2, 16, 12)))
    return path


def test_a_broken_stream_of_an_npz_is_named(tmp_path):
    path = npz(tmp_path / "1_uv.npz")
    with zipfile.ZipFile(path) as file:
        info = file.infolist()[0]
    start = info.header_offset + 30 + len(info.filename) + 20
    change(path, start, b"\xff" * 12)
    with pytest.raises(zlib.error), np.load(path) as file:
        file["uv"]
    with pytest.raises(DataError, match="1_uv.npz") as found:
        UVStore(tmp_path).read("1_uv.npz")
    assert found.value.kind == "unreadable map"


@pytest.mark.parametrize(
    "mark, new",
    [
        (b"PK\x01\x02", b"PK\x01\x03"),  # directory
        (b"PK\x05\x06", b"PK\x05\x07"),  # its end
        (b"PK\x03\x04", b"PK\x03\x05"),  # the member's own head
        (b"\x93NUMPY", b"\x93NUMPX"),
    ],
)
def test_a_damaged_zip_is_named(tmp_path, mark, new):
    path = npz(tmp_path / "1_uv.npz", compressed=False)
    change(path, path.read_bytes().index(mark), new)
    with pytest.raises(DataError, match="1_uv.npz"):
        UVStore(tmp_path).read("1_uv.npz")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 16, ",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 999999999999, 12), }",
        "{'descr': '|S9', 'fortran_order': False, 'shape': (2, 8, 8), }",
        "[" * 300,
    ],
)
def test_a_wrong_head_under_a_right_checksum_is_named(tmp_path, header):
    head = header.encode().ljust(1013) + b"\n"
    array = b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + bytes(2 * 16 * 12 * 8)
    with zipfile.ZipFile(tmp_path / "1_uv.npz", "w") as file:
        file.writestr("uv.npy", array)
    with pytest.raises(DataError, match="1_uv.npz"):
        UVStore(tmp_path).read("1_uv.npz")


def test_an_array_in_place_of_the_archive_is_named(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 8, 8)))
    (tmp_path / "1_uv.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="1_uv.npz"):
        UVStore(tmp_path).read("1_uv.npz")


# Pictures


def png(mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 2, (16, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def with_chunk(data, name, content):
    "The PNG with one chunk's content replaced, under a right checksum."
    at = data.index(name) - 4
    end = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data[:at] + chunk + data[end:]


BROKEN = {
    "checksum": lambda d: d[:29] + b"\0\0\0\0" + d[33:],
    "length of the first chunk": lambda d: d[:8] + b"\0\0\0\x05" + d[12:],
    "no such filter": lambda d: with_chunk(d, b"IDAT", zlib.compress(b"\x09" * 37 * 16)),
    "no zlib stream": lambda d: with_chunk(d, b"IDAT", b"\x12\x34\x56"),
    "no such kind of colour": lambda d: with_chunk(d, b"IHDR", d[16:25] + b"\5\0\0\0"),
    "a short head": lambda d: with_chunk(d, b"IHDR", b"\0\0\0\x0c"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_png_with_a_broken_chunk_is_named(tmp_path, damage):
    (tmp_path / "1.png").write_bytes(BROKEN[damage](png()))
    for store in (FileStore(tmp_path), MapStore(tmp_path, kind="grey")):
        with pytest.raises(DataError, match=r"1\.png") as found:
            store.read("1.png")
        assert found.value.kind in ("unreadable picture", "unreadable map")


def test_every_kind_of_picture_store_names_a_broken_picture(tmp_path):
    data = BROKEN["no zlib stream"](png())
    (tmp_path / "1.png").write_bytes(data)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "1.png", "1.png")
    index = tar_index(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar, row 1\.png"):
        TarStore(tmp_path / "a.tar", index).read("1.png")
    with pytest.raises(DataError, match=r"a\.tar, row 1\.png"):
        TarMaps(tmp_path / "a.tar", index).read("1.png")
    with pytest.raises(DataError, match="blobs, row 0"):
        BytesStore([data], "blobs").read(0)
    with pytest.raises(DataError, match=r"x\.png, row 7"):
        decode(data, "x.png", 7)
    with pytest.raises(DataError, match=r"1\.png"):
        (tmp_path / "1.png").write_bytes(BROKEN["a short head"](png()))
        picture_size(tmp_path / "1.png")


def test_a_row_that_its_table_cannot_give_is_named():
    class Torn(list):
        def __getitem__(self, key):
            raise OSError("the column ends early")

    with pytest.raises(DataError, match="hub copy, row 3.*ends early"):
        BytesStore(Torn(), "hub copy").read(3)


def test_a_tar_that_vanished_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.tar, row 1\.png"):
        TarMaps(tmp_path / "gone.tar", {"1.png": (512, 10)}).read("1.png")


def test_a_tar_whose_sizes_lead_backwards_comes_to_an_end(tmp_path):
    (tmp_path / "1.png").write_bytes(png())
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(tmp_path / "1.png", "1.png")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[124:136] = b"-0000001000\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar.*below zero"):
        tar_index(tmp_path / "a.tar")


# JSON and gzip


@pytest.mark.parametrize("data", [b'{"a": ', b"\xff\xfe", b"[" * 100_000, b"7" * 10_000, b""])
def test_what_is_no_json_is_named(tmp_path, data):
    (tmp_path / "p.png").write_bytes(png())
    (tmp_path / "1.json").write_bytes(data)
    for read in (
        lambda: read_json(tmp_path / "1.json"),
        lambda: PoseStore(tmp_path, "vitonhd").read(("1.json", "p.png")),
        lambda: parse_json(data, "1.json"),
    ):
        with pytest.raises(DataError, match=r"1\.json"):
            read()


def test_json_keeps_pairs_where_they_are_asked_for():
    assert parse_json('{"a": 1, "a": 2}', "x", pairs=list) == [("a", 1), ("a", 2)]
    assert parse_json(b"\xef\xbb\xbf[1]", "x") == [1]


@pytest.mark.parametrize("at, new", [(0, b"\0"), (2, b"\x07"), (14, b"\xff" * 8), (-6, b"\0\0")])
def test_a_damaged_gzip_stream_is_named(tmp_path, at, new):
    data = bytearray(gzip.compress(b'{"a": "%s"}\n' % os.urandom(40).hex().encode(), mtime=1))
    at %= len(data)
    data[at : at + len(new)] = new
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        list(json_lines(tmp_path / "a.jsonl.gz", Report()))


# The guard itself


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), zlib.error("x")])
def test_the_guard_names_whatever_is_raised(error):
    with pytest.raises(DataError, match="photos.h5, row 3: no luck") as found:
        with guarded("no luck", "photos.h5", 3, "some kind"):
            raise error
    assert found.value.kind == "some kind"


def test_the_guard_lets_an_interruption_through():
    with pytest.raises(KeyboardInterrupt), guarded("no luck", "photos.h5"):
        raise KeyboardInterrupt


def test_faults_of_ours_and_a_lack_of_memory_are_not_called_damage(tmp_path):
    with pytest.raises(NameError), guarded("damaged", tmp_path / "a.h5"):
        raise NameError("a name that the block lacks")
    with pytest.raises(DataError) as caught, guarded("damaged", tmp_path / "a.h5", kind="damaged HDF5"):
        raise MemoryError
    assert caught.value.kind == "out of memory" and "not enough memory" in str(caught.value)


def test_one_name_in_two_spellings_is_one_name(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("./a.jpg", b"1"), ("a.jpg", b"22")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match="occurs twice"):
        tar_index(tmp_path / "a.tar")
