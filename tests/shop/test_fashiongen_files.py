"""The drawn shop: sizes, near-duplicates, separate slices; the official file format;
one catalogue in the cache."""

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT

from unifashion.ground.core import World
from unifashion.shop import fashiongen_files as formats
from unifashion.shop.phrases import agrees, mentions
from unifashion.wardrobe.drawing import draw
from unifashion.wardrobe.garments import KINDS
from unifashion.wardrobe.sampling import changes

WORLD = World("drawn", products=160, test_per_type=4, height=32, width=24, seed=3)
TINY = World("drawn", products=48, test_per_type=1, height=16, width=12, seed=5)
KEYS = {
    "index",
    "index_2",
    "input_image",
    "input_name",
    "input_description",
    "input_concat_description",
    "input_category",
    "input_subcategory",
    "input_productID",
    "input_gender",
    "input_brand",
    "input_season",
    "input_composition",
    "input_department",
    "input_pose",
    "input_msrpUSD",
}


def look(g):
    return replace(g, seed=0)


@pytest.fixture(scope="module")
def products():
    return formats.draw_products(WORLD)


@pytest.fixture(scope="module")
def files(products, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashiongen")
    return {s: formats.write_fashiongen(folder, products, s, 32, 24, workers=1) for s in ("train", "test")}


def test_sizes(products):
    count = Counter((p.split, p.garment.kind) for p in products)
    assert len(products) == 160 and all(count["test", k] == 4 and count["train", k] == 6 for k in KINDS)
    ids = [p.id for p in products]
    assert ids == sorted(set(ids)) and [p.split for p in products] == ["train"] * 96 + ["test"] * 64
    assert len({p.garment.kind for p in products[:24]}) > 8, "shuffled"


def test_mini_has_enough_of_each_kind():
    sizes = formats._sizes(World("drawn", products=5000, test_per_type=112), "run")
    assert sum(map(sum, (s.values() for s in sizes.values()))) == 5000 and set(sizes["test"].values()) == {
        112
    }


def test_equal_worlds_have_equal_products(products):
    again = formats.draw_products(replace(WORLD, height=64, width=48))
    assert again == products
    other = formats.draw_products(replace(WORLD, seed=4))
    assert len({look(p.garment) for p in products} & {look(p.garment) for p in other}) < 8


def test_no_two_look_or_read_the_same(products):
    assert len({look(p.garment) for p in products}) == len({p.text for p in products}) == 160


def test_slices_share_no_description(products):
    for seed in (3, 9):
        foundations = formats.draw_products(replace(WORLD, seed=seed), "foundations")
        assert not {look(p.garment) for p in products} & {look(p.garment) for p in foundations}
        assert not {p.id for p in products} & {p.id for p in foundations}
    assert all(formats.part_of(p.garment) == "run" for p in products)
    assert all(formats.part_of(p.garment) == "foundations" for p in foundations)
    assert Counter(p.split for p in foundations)["test"] == 16


def test_a_quarter_has_a_sibling_and_the_texts_tell_them_apart():
    drawn = formats.draw_garments(40, "dress", "run", set(), np.random.default_rng(0))
    pairs = [(a, b, d) for (a, d), (b, _) in zip(drawn[:10:2], drawn[1:10:2])]
    assert all(len(d) == 1 and tuple(changes(a, b)) == d for a, b, d in pairs) and not any(
        d for _, d in drawn[10:]
    )
    texts = set()
    for a, b, d in pairs:
        text = formats.make_product(1, a, "train", d, texts, 0).text
        assert agrees(text, a) and not agrees(text, b)


def test_texts_are_true(products):
    for p in products:
        for text in (p.text, p.name, p.short, p.key_points):
            assert agrees(text, p.garment), (text, p.garment)
        assert p.garment.kind in mentions(p.text)["kind"]


def test_official_keys_types_and_order(files, products):
    assert (
        files["train"].name == "fashiongen_32_32_train.h5"
        and files["test"].name == "fashiongen_32_32_validation.h5"
    )
    for split, path in files.items():
        rows = [(p, v) for p in products if p.split == split for v in p.views]
        with h5py.File(path) as file:
            assert set(file) == KEYS
            assert (
                file["input_image"].shape == (len(rows), 32, 32, 3) and file["input_image"].dtype == np.uint8
            )
            for key in KEYS - {"input_image"}:
                assert file[key].shape == (len(rows), 1), key
                assert file[key].dtype.kind == (
                    "S" if key in formats.STRINGS else "f" if "USD" in key else "i"
                ), key
            assert file["input_productID"][:, 0].tolist() == [p.id for p, _ in rows]
            assert [v.decode() for v in file["input_name"][:, 0]] == [p.name for p, _ in rows]
            assert file["input_pose"][0, 0] == b"id_gridfs_1"
            assert {v.decode("latin-1") for v in file["input_brand"][:, 0]} == {p.brand for p, _ in rows}


def test_pictures_are_the_drawings_on_a_square(files, products):
    rows = [(p, v) for p in products if p.split == "test" for v in p.views]
    with h5py.File(files["test"]) as file:
        for i in (0, 7, len(rows) - 1):
            p, v = rows[i]
            assert (file["input_image"][i] == formats.on_square(draw(p.garment, v, 32, 24))).all()
            assert (file["input_image"][i][:, 4:28] == draw(p.garment, v, 32, 24)).all()


def test_some_brands_are_no_utf8(files):
    with h5py.File(files["train"]) as file:
        brands = set(file["input_brand"][:, 0].tolist())
    broken = 0
    for b in brands:
        try:
            b.decode("utf-8")
        except UnicodeDecodeError:
            broken += 1
    assert 0 < broken < len(brands)


def test_on_square():
    picture = np.zeros((4, 2, 3), np.uint8)
    picture[0, 0] = 9
    square = formats.on_square(picture)
    assert square.shape == (4, 4, 3) and (square[:, (0, 3)] == 9).all() and (square[:, 1:3] == picture).all()
    with pytest.raises(ValueError, match="width"):
        formats.on_square(np.zeros((2, 4, 3), np.uint8))


def test_errors_name_the_setting(products, tmp_path):
    with pytest.raises(ValueError, match="world.products"):
        formats.draw_products(replace(WORLD, products=60))
    with pytest.raises(ValueError, match="world.dataset"):
        formats.draw_products(World("kagl"))
    with pytest.raises(ValueError, match="part.*foundations"):
        formats.draw_products(WORLD, "exam")
    with pytest.raises(ValueError, match="split.*train, test"):
        formats.write_fashiongen(tmp_path, products, "val", 32, 24)
    with pytest.raises(ValueError, match="no products in 'test'"):
        formats.write_fashiongen(tmp_path, products[:3], "test", 32, 24)


def test_a_full_disk_is_one_clear_line(products, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**20})())
    with pytest.raises(OSError, match="MiB are needed.*UNIFASHION_CACHE"):
        formats.write_fashiongen(tmp_path, products, "test", 512, 384)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(products, tmp_path, monkeypatch):
    def broken(*a):
        raise RuntimeError("pen broke")

    monkeypatch.setattr(formats, "draw", broken)
    with pytest.raises(RuntimeError, match="pen broke"):
        formats.write_fashiongen(tmp_path, products, "test", 32, 24, workers=1)
    assert not list(tmp_path.iterdir())


def test_catalogue_is_drawn_once_and_read_back(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    folder = formats.drawn_catalogue(TINY, workers=1)
    assert sorted(p.name for p in folder.iterdir()) == [
        "fashiongen_16_16_train.h5",
        "fashiongen_16_16_validation.h5",
        "products.jsonl",
    ]
    assert formats.read_products(folder) == formats.draw_products(TINY)
    monkeypatch.setattr(formats, "draw_products", None)
    assert formats.drawn_catalogue(TINY) == folder
    assert capsys.readouterr().out.count("drew") == 1
    assert formats.world_folder(replace(TINY, seed=6)) != folder != formats.world_folder(TINY, "foundations")


def test_an_incomplete_catalogue_is_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    folder = formats.world_folder(TINY)
    left = folder.with_name(f".{folder.name}.999999.tmp~")
    for old in (folder, left):
        old.mkdir(parents=True)
    (folder / "products.jsonl").write_text("")
    assert (
        formats.drawn_catalogue(TINY, workers=1) == folder
        and len(formats.read_products(folder)) == 48
        and not left.exists()
    )


def test_another_code_is_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    before = formats.world_folder(TINY)
    monkeypatch.setattr(formats, "_code", lambda: "other")
    assert formats.world_folder(TINY) != before


SCRIPT = """
import hashlib, sys, time
from unifashion.shop import fashiongen_files as formats
from unifashion.ground.core import World
world = World('drawn', 48, 1, 16, 12, 5)
if __name__ == '__main__' and sys.argv[1] == 'draw': print(formats.drawn_catalogue(world).name)
elif __name__ == '__main__':
    with formats.workers_of(2) as mapped:
        products = formats.draw_products(world, 'run', mapped)
        path = formats.write_fashiongen(sys.argv[1], products, 'test', 16, 12, mapped=mapped)
        print(*[p.pid for p in formats.multiprocessing.active_children()], flush=True)
        time.sleep(60)
"""


@pytest.fixture
def started(tmp_path):
    (tmp_path / "job.py").write_text(SCRIPT)
    env = os.environ | {"UNIFASHION_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    return lambda what: subprocess.Popen(
        [sys.executable, tmp_path / "job.py", what], env=env, stdout=subprocess.PIPE, text=True
    )


def running(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_a_script_without_a_main_guard_is_told(tmp_path):
    script = tmp_path / "careless.py"
    script.write_text(
        "from unifashion.shop.fashiongen_files import workers_of\nwith workers_of(2) as mapped: "
        "list(mapped(len, [[1], [2]]))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith(
        "RuntimeError: the processes that draw have ended"
    )
    script.write_text(
        "from unifashion.shop.fashiongen_files import workers_of\nif __name__ == '__main__':\n    with "
        "workers_of(2) as mapped: print(list(mapped(len, [[1], [2, 3]])))\n"
    )
    assert (
        subprocess.run(
            [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=120
        ).stdout
        == "[1, 2]\n"
    )


def test_workers_draw_the_same_and_end_with_a_killed_parent(started, tmp_path):
    job = started(str(tmp_path / "two"))
    workers = [int(n) for n in job.stdout.readline().split()]
    alone = formats.write_fashiongen(tmp_path, formats.draw_products(TINY), "test", 16, 12, workers=1)
    assert alone.read_bytes() == (tmp_path / "two" / alone.name).read_bytes()
    assert len(workers) == 2 and all(map(running, workers))
    job.kill()
    job.communicate()
    end = time.time() + 20
    while any(map(running, workers)) and time.time() < end:
        time.sleep(0.05)
    assert not any(map(running, workers))


def test_of_two_processes_one_draws(started, tmp_path):
    jobs = [started("draw"), started("draw")]
    out = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0] and len({o.split()[-1] for o in out}) == 1
    assert "".join(out).count("drew") == 1 or os.name != "posix"
    (folder,) = [p for p in (tmp_path / "cache" / "worlds").iterdir() if not p.name.startswith(".")]
    assert formats.read_products(folder) == formats.draw_products(TINY)
