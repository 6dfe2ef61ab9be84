"Readers of FashionGen, KAGL in three forms and a plain folder, on synthetic files: round trips and damage."

import gzip
import io
import json
import sys
import tarfile
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from unifashion.data import kagl
from unifashion.data.catalogues import (
    FASHIONGEN_KEYS,
    open_catalogue,
    own_split,
    plain_text,
    read_fashiongen,
    read_folder,
)
from unifashion.data.kagl import (
    kagl_split,
    read_kagl,
    read_kagl_folder,
    read_kagl_hub,
    read_kagl_keypoints,
    read_kagl_triplets,
)
from unifashion.data.kagl_text import (
    cut_purpose,
    extract_visual,
    join_text,
    remove_brand,
    sections,
    sentences,
    token_f1,
)
from unifashion.data.samples import DataError, val_of
from unifashion.ground.core import World, load_profile


def jpeg(k=0, size=(60, 80)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (20 * k % 256, 90, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


# FashionGen


def write_h5(path, products=("1", "1", "2", "3", "3", "3"), drop=(), side=8, **columns):
    n = len(products)
    with h5py.File(path, "w") as file:
        file["input_image"] = np.arange(n * side * side * 3, dtype=np.uint8).reshape(n, side, side, 3)
        file["input_productID"] = np.array([[p.encode()] for p in products])
        for key in FASHIONGEN_KEYS:
            if key in columns:
                file[key] = columns[key]
            elif key.startswith("index"):
                file[key] = np.arange(n)[:, None]
            elif key not in file:
                file[key] = np.array([[f"{key} {p}".encode()] for p in products])
        for key in drop:
            del file[key]
    return path


@pytest.fixture
def fashiongen(tmp_path):
    for part in ("train", "validation"):
        write_h5(tmp_path / f"fashiongen_8_8_{part}.h5")
    return tmp_path


def test_fashiongen_reads_the_validation_file_as_test(fashiongen):
    write_h5(fashiongen / "fashiongen_8_8_validation.h5", products=("9", "9"))
    c = read_fashiongen(fashiongen, "test")
    assert c.ids == ["9_0", "9_1"] and c.texts[0] == "input_name 9. input_description 9"
    assert c.split == "test" and c.fit == "crop"
    assert c[1].view == 1 and c[1].subcategory == "input_subcategory 9" and c[1].title == "input_name 9"
    assert c.image(1).dtype == np.uint8 and (c.image(1).ravel() == (np.arange(192, 384) % 256)).all()


def test_fashiongen_val_is_cut_out_of_train(tmp_path):
    products = [str(k // 2) for k in range(200)]
    write_h5(tmp_path / "fashiongen_8_8_train.h5", products=products)
    train, val = read_fashiongen(tmp_path, "train"), read_fashiongen(tmp_path, "val")
    assert len(train) + len(val) == 200 and all(val_of(p) for p in val.products)
    assert not any(val_of(p) for p in train.products)
    assert not set(train.products) & set(val.products) and train.report.rows == len(train)


def test_fashiongen_texts(tmp_path):
    assert plain_text(b"Cr\xeape<br/> top") == "Crêpe top" and plain_text(b"Cr\xc3\xaape") == "Crêpe"
    assert plain_text(np.int32(4)) == "4"
    write_h5(
        tmp_path / "fashiongen_8_8_validation.h5",
        input_description=np.array([[b"Cr\xeape"]] * 6),
        input_name=np.array([[b"Top."]] * 6),
    )
    c = read_fashiongen(tmp_path, "test")
    assert c.texts[0] == "Top. Crêpe" and sum(c.report.notes.values()) == 1


def test_fashiongen_integer_ids_and_flat_columns(tmp_path):
    write_h5(tmp_path / "fashiongen_8_8_validation.h5", drop=("input_productID",))
    with h5py.File(tmp_path / "fashiongen_8_8_validation.h5", "a") as file:
        file["input_productID"] = np.array([5, 5, 6, 6, 7, 7])
    assert read_fashiongen(tmp_path, "test").products == ["5", "5", "6", "6", "7", "7"]


@pytest.mark.parametrize(
    "change, kind, row",
    [
        (dict(drop=["input_image"]), "wrong key", "input_image"),
        (dict(drop=["input_description"]), "wrong key", "input_description"),
        (dict(drop=["input_productID"]), "wrong key", "input_productID"),
        (dict(input_category=np.array([[b"x"]] * 4)), "wrong length", "input_category"),
        (dict(products=("1", "2", "1")), "duplicate id", 2),
    ],
)
def test_fashiongen_damage(tmp_path, change, kind, row):
    write_h5(tmp_path / "fashiongen_8_8_validation.h5", **change)
    with pytest.raises(DataError) as found:
        read_fashiongen(tmp_path, "test")
    assert (found.value.kind, found.value.row) == (kind, row)
    assert found.value.file.name == "fashiongen_8_8_validation.h5"


def test_fashiongen_skips_a_product_that_comes_again(tmp_path):
    write_h5(tmp_path / "fashiongen_8_8_validation.h5", products=("1", "2", "1", "1", "3"))
    c = read_fashiongen(tmp_path, "test", on_error="skip")
    assert c.ids == ["1_0", "2_0", "3_0"] and c.report.counts == {"duplicate id": 1} and c.report.rows == 5


def test_fashiongen_other_files(tmp_path, fashiongen):
    with pytest.raises(DataError, match="no split 'dev'"):
        read_fashiongen(fashiongen, "dev")
    with pytest.raises(DataError, match=r"expected fashiongen_16_16_validation.h5"):
        read_fashiongen(fashiongen, "test", side=16)
    write_h5(fashiongen / "fashiongen_16_16_validation.h5", side=16)
    with pytest.raises(DataError, match="several sides"):
        read_fashiongen(fashiongen, "test")
    assert read_fashiongen(fashiongen, "test", side=16).image(0).shape == (16, 16, 3)


def test_fashiongen_damaged_container(tmp_path):
    path = write_h5(tmp_path / "fashiongen_8_8_validation.h5")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / path.name).write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="no readable HDF5"):
        read_fashiongen(tmp_path / "cut", "test")
    (tmp_path / "float").mkdir()
    write_h5(tmp_path / "float" / path.name, drop=["input_image"])
    with h5py.File(tmp_path / "float" / path.name, "a") as file:
        file["input_image"] = np.zeros((6, 8, 8, 3), np.float32)
    with pytest.raises(DataError, match="float32"):
        read_fashiongen(tmp_path / "float", "test")


def test_fashiongen_empty_split(tmp_path):
    product = next(p for p in map(str, range(99)) if not val_of(p))
    write_h5(tmp_path / "fashiongen_8_8_train.h5", products=(product,))
    with pytest.raises(DataError, match="split 'val' holds no rows"):
        read_fashiongen(tmp_path, "val", on_error="skip")


def test_fashiongen_round_trip_with_the_writer(tmp_path):
    from unifashion.shop.fashiongen_files import draw_products, write_fashiongen

    products = draw_products(World("drawn", products=34, test_per_type=1, height=32, width=24))
    write_fashiongen(tmp_path, products, "test", 32, 24, workers=1)
    c = read_fashiongen(tmp_path, "test")
    want = [p for p in products if p.split == "test"]
    assert list(c.rows_of) == [str(p.id) for p in want]
    assert [len(r) for r in c.rows_of.values()] == [len(p.views) for p in want]
    assert c.image(0).shape == (32, 32, 3) and all(
        p.description in c.texts[c.rows_of[str(p.id)][0]] for p in want
    )


# the KAGL pack


def product(k, **changes):
    return (
        dict(
            id=str(k),
            title=f"Acme Shirt {k}",
            brand="Acme",
            gender="Men",
            master="Apparel",
            sub="Topwear",
            type="Shirts",
            colour=["Blue"],
            description="",
            visual=f"Blue shirt from acme with {k} buttons.",
            has_224=k % 2 == 0,
        )
        | changes
    )


def write_pack(root, ids=range(10, 20), lines=None, pictures=None, split=None):
    root.mkdir(parents=True, exist_ok=True)
    pictures = {k: jpeg(k) for k in ids} if pictures is None else pictures
    for name, size in (("images_60x80.tar", None), ("images_224.tar", (224, 224))):
        with tarfile.open(root / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for k, data in pictures.items():
                if size:
                    data = jpeg(k, size)
                member = tarfile.TarInfo(f"{k}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    lines = [json.dumps(product(k)).encode() for k in ids] if lines is None else lines
    (root / "products.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    ids = [str(k) for k in ids]
    (root / "split.json").write_text(
        json.dumps({"train": ids[:6], "val": ids[6:7], "test": ids[7:]} if split is None else split)
    )
    return root


def test_kagl_pack(tmp_path):
    c = read_kagl(write_pack(tmp_path), "test")
    assert c.ids == ["17", "18", "19"] and c.texts[0] == "Shirt 17. Blue shirt with 17 buttons."
    assert c.protocol == "kagl"
    assert c[0].subcategory == "Topwear" and c[0].type == "Shirts"
    assert c[0].brand == "Acme" and c.image(2).shape == (80, 60, 3)
    big = read_kagl(tmp_path, "test", pictures="224")
    # squashed square restored to 3:4
    assert big.ids == ["18"] and big.image(0).shape == (224, 168, 3)
    with pytest.raises(ValueError, match="60x80"):
        read_kagl(tmp_path, "test", pictures="1024")
    with pytest.raises(DataError, match="no split 'dev'"):
        read_kagl(tmp_path, "dev")


def test_kagl_uses_visual_and_falls_back_to_the_description(tmp_path):
    rows = [product(17, visual=""), product(18), product(19)]
    rows[1].pop("visual")
    rows[1]["description"] = "Composition Red shirt made of cotton Wash care Machine wash"
    lines = [json.dumps(r).encode() for r in [product(k) for k in range(10, 17)] + rows]
    c = read_kagl(write_pack(tmp_path, lines=lines), "test")
    assert c.texts == [
        "Shirt 17",
        "Shirt 18. Red shirt made of cotton.",
        "Shirt 19. Blue shirt with 19 buttons.",
    ]


LINES = [json.dumps(product(k)).encode() for k in range(10, 20)]


@pytest.mark.parametrize(
    "lines, kind, left",
    [
        (LINES[:8] + [LINES[8][:40]] + LINES[9:], "broken JSON", 2),
        (LINES[:8] + [LINES[8].replace(b"Acme Shirt", b"Acm\xe9 Shirt")] + LINES[9:], "not UTF-8", 2),
        (LINES[:8] + [LINES[8], LINES[8]] + LINES[9:], "duplicate id", 3),
        (LINES + [json.dumps(product(77)).encode()], "unknown id", 3),
        (LINES[:8] + LINES[9:], "no product", 2),
        (LINES[:8] + [json.dumps(product(18, title="")).encode()] + LINES[9:], "no title", 2),
        (LINES[:8] + [b'{"title": "no id"}'] + LINES[8:], "no id", 3),
    ],
)
def test_kagl_damaged_lines(tmp_path, lines, kind, left):
    write_pack(tmp_path, lines=lines)
    with pytest.raises(DataError) as found:
        read_kagl(tmp_path, "test")
    assert found.value.kind == kind and found.value.row is not None
    c = read_kagl(tmp_path, "test", on_error="skip")
    assert len(c) == left and kind in c.report.counts and c.report.kept == left


@pytest.mark.parametrize(
    "pictures, kind",
    [
        ({k: jpeg(k) for k in range(10, 19)}, "missing picture"),
        ({k: jpeg(k) if k != 19 else jpeg(k)[:200] for k in range(10, 20)}, "unreadable picture"),
    ],
)
def test_kagl_damaged_pictures(tmp_path, pictures, kind):
    write_pack(tmp_path, pictures=pictures)
    with pytest.raises(DataError) as found:
        read_kagl(tmp_path, "test", check=True)
    assert found.value.kind == kind and "19" in str(found.value)
    c = read_kagl(tmp_path, "test", on_error="skip")
    assert c.ids == ["17", "18"] and c.report.counts == {kind: 1}
    # found at reading, with its address
    if kind == "unreadable picture":
        with pytest.raises(DataError, match=r"images_60x80.tar, row 19.jpg"):
            read_kagl(tmp_path, "test").image(2)


@pytest.mark.parametrize(
    "split", [{"train": ["10"], "val": [], "test": ["19"]}, {"train": ["10"], "test": ["19"]}, ["10"]]
)
def test_kagl_empty_or_missing_split(tmp_path, split):
    write_pack(tmp_path, split=split)
    with pytest.raises(DataError, match="split.json"):
        read_kagl(tmp_path, "val")


def test_kagl_missing_files(tmp_path):
    for name in ("split.json", "products.jsonl.gz", "images_60x80.tar"):
        root = write_pack(tmp_path / name)
        (root / name).unlink()
        with pytest.raises(DataError, match=name):
            read_kagl(root, "test")


def test_kagl_ids_in_the_repository():
    sizes = {s: kagl_split(s) for s in ("train", "val", "test")}
    assert {s: len(v) for s, v in sizes.items()} == {"train": 36980, "val": 2068, "test": 2159}
    assert len(set().union(*sizes.values())) == 41207
    for split, n in (("train", 10005), ("val", 1002), ("test", 1001)):
        queries, report = read_kagl_triplets(split)
        assert len(queries) == n == report.kept and {q.target for q in queries} <= set(sizes[split])
    poses = read_kagl_keypoints()
    assert len(poses) == 3789 and all(len(p) == 18 and len(p[0]) == 3 for p in poses.values())
    files = list((Path(kagl.repo_root()) / "data" / "kagl").iterdir())
    assert sum(f.stat().st_size for f in files) < 1_000_000
    assert {f.name.split("_")[0].split(".")[0] for f in files} == {"split", "triplets", "poses"}


def test_kagl_triplets_against_a_catalogue(tmp_path):
    c = read_kagl(write_pack(tmp_path), "test")
    good = dict(
        candidate="17",
        target="18",
        captions=["is red", "is long"],
        type="Shirts",
        changes={"colour": ["blue", "red"]},
    )
    lines = [good, good | {"target": "99"}, {"candidate": "17", "target": "18"}]
    (tmp_path / "triplets_test.jsonl.gz").write_bytes(
        gzip.compress("\n".join(map(json.dumps, lines)).encode())
    )
    with pytest.raises(DataError, match="row 2: caption for unknown id '99'"):
        read_kagl_triplets("test", tmp_path, c)
    queries, report = read_kagl_triplets("test", tmp_path, c, on_error="skip")
    assert [q.text for q in queries] == ["is red and is long"] and report.counts == {
        "unknown id": 1,
        "no key": 1,
    }
    assert queries[0].changes == (("colour", "blue", "red"),)


# Kaggle's folder and the hub

HEAD = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"


def write_kaggle(root, lines, pictures=(1, 2, 3)):
    (root / "images").mkdir(parents=True)
    for k in pictures:
        (root / f"images/{k}.jpg").write_bytes(jpeg(k))
    lines = [l if isinstance(l, bytes) else l.encode() for l in [HEAD, *lines]]
    (root / "styles.csv").write_bytes(b"\n".join(lines) + b"\n")
    return root


def line(k, title="Blue Shirt"):
    return f"{k},Men,Apparel,Topwear,Shirts,Blue,Fall,2011,Casual,{title}"


def test_kaggle_small(tmp_path):
    c = read_kagl_folder(
        write_kaggle(tmp_path, [line(1), line(2, "Shirt, Slim"), line(3)]), "test", ids=["1", "2", "3"]
    )
    assert c.texts == ["Blue Shirt", "Shirt, Slim", "Blue Shirt"] and c.protocol == "kagl_title"
    assert c.subcategories == ["Topwear"] * 3
    assert c.report.notes == {"comma in a title kept": 1} and c.image(0).shape == (80, 60, 3)


@pytest.mark.parametrize(
    "lines, pictures, kind",
    [
        ([line(1), line(2), "3,Men"], (1, 2, 3), "wrong field count"),
        ([line(1), line(2), line(2)], (1, 2), "duplicate id"),
        ([line(1).encode(), line(2).encode(), line(3, "Caf\xe9").encode("latin-1")], (1, 2, 3), "not UTF-8"),
        ([line(1), line(2), line(3)], (1, 2), "missing picture"),
        ([line(1), line(2)], (1, 2, 3), "no product"),
    ],
)
def test_kaggle_damage(tmp_path, lines, pictures, kind):
    write_kaggle(tmp_path, lines, pictures)
    with pytest.raises(DataError):
        read_kagl_folder(tmp_path, "test", ids=["1", "2", "3"])
    c = read_kagl_folder(tmp_path, "test", ids=["1", "2", "3"], on_error="skip")
    assert c.ids == ["1", "2"] and kind in c.report.counts


MOVED = {
    "numbers in front": lambda row: ["9", *row],
    "turned round": lambda row: row[::-1],
    "prices behind": lambda row: [*row, "1999", "5 6"],
    "seasons taken away": lambda row: [v for name, v in zip(HEAD.split(","), row) if name != "season"],
}


@pytest.mark.parametrize("shape", MOVED)
def test_kaggle_columns_go_by_their_names(tmp_path, shape):
    def moved(text):
        return ",".join(MOVED[shape](text.split(",")))

    root = write_kaggle(tmp_path, [moved(line(k, f"Shirt number {k}")) for k in (1, 2, 3)])
    head = moved(HEAD).replace("1999", "price").replace("5 6", "others").replace("9,", ",", 1)
    table = (root / "styles.csv").read_text()
    (root / "styles.csv").write_text(table.replace(HEAD, head))
    c = read_kagl_folder(root, "test", ids=["3", "1"])
    assert c.ids == ["3", "1"] and c.texts == ["Shirt number 3", "Shirt number 1"]
    assert c.subcategories == ["Topwear"] * 2 and c.column("colour") == ["Blue"] * 2 and not c.report.notes


def test_kaggle_header_without_a_needed_column_is_refused(tmp_path):
    root = write_kaggle(tmp_path, [line(1)])
    table = (root / "styles.csv").read_text().replace("articleType", "kind").replace("baseColour", "paint")
    (root / "styles.csv").write_text(table)
    wanted = "no column 'articleType', 'baseColour'; the header has id, gender"
    with pytest.raises(DataError, match=wanted) as found:
        read_kagl_folder(root, "test", ids=["1"], on_error="skip")
    assert found.value.file.name == "styles.csv" and found.value.kind == "wrong column"


def test_kaggle_comma_that_could_be_of_two_columns_leaves_the_row_out(tmp_path):
    lines = [line(1) + ",1999", line(2, "Shirt, Slim") + ",1999", line(3, '"Shirt, Wide"') + ",1999"]
    root = write_kaggle(tmp_path, lines)
    table = (root / "styles.csv").read_text().replace(HEAD, HEAD + ",price")
    (root / "styles.csv").write_text(table)
    c = read_kagl_folder(root, "test", ids=["1", "2", "3"], on_error="skip")
    assert c.texts == ["Blue Shirt", "Shirt, Wide"]
    assert c.report.counts == {"wrong field count": 1, "no product": 1}


def test_kaggle_file_of_another_product_is_refused(tmp_path):
    root = write_kaggle(tmp_path, [line(1)])
    (root / "styles").mkdir()
    (root / "styles/1.json").write_text(json.dumps({"data": {"id": 2, "productDisplayName": "Blue Shirt"}}))
    with pytest.raises(DataError, match=r"1.json: holds product '2'"):
        read_kagl_folder(root, "test", ids=["1"])


def test_kaggle_full(tmp_path):
    write_kaggle(tmp_path, [line(1)])
    (tmp_path / "styles").mkdir()
    value = {
        "data": {
            "id": 1,
            "productDisplayName": "ACME Blue Shirt",
            "brandName": "Acme",
            "subCategory": {"typeName": "Topwear"},
            "productDescriptors": {
                "description": {
                    "value": "<p>Composition<br>Blue shirt made of cotton<br>Wash care<br>Machine wash</p>"
                }
            },
        }
    }
    (tmp_path / "styles/1.json").write_text(json.dumps(value))
    (tmp_path / "styles/2.json").write_text("{")
    (tmp_path / "styles/3.json").write_text("{}")
    with pytest.raises(DataError, match="2.json"):
        read_kagl_folder(tmp_path, "test", ids=["1", "2"])
    c = read_kagl_folder(tmp_path, "test", ids=["1", "2", "3"], on_error="skip")
    assert c.texts == ["Blue Shirt. Blue shirt made of cotton."] and c.protocol == "kagl_extracted"
    assert c.report.counts["broken JSON"] == 2


def test_kaggle_link_out_of_the_folder(tmp_path):
    root = write_kaggle(tmp_path / "kaggle", [line(1), line(2)], pictures=(1,))
    (tmp_path / "2.jpg").write_bytes(jpeg(2))
    (root / "images/2.jpg").symlink_to(tmp_path / "2.jpg")
    with pytest.raises(DataError, match="leads out of the data folder"):
        read_kagl_folder(root, "test", ids=["1", "2"])
    c = read_kagl_folder(root, "test", ids=["1", "2"], on_error="skip")
    assert c.ids == ["1"] and c.report.counts == {"path leaves the folder": 1}


def hub_table(n=3, **changes):
    return (
        dict(
            item_ID=list(range(n)),
            text=[f"Shirt {k}" for k in range(n)],
            category1=["Apparel"] * n,
            category2=["Topwear"] * n,
            category3=["Shirts"] * n,
            baseColour=["Blue"] * n,
            gender=["Men"] * n,
            image=[dict(bytes=jpeg(k), path=None) for k in range(n)],
        )
        | changes
    )


def test_hub():
    c = read_kagl_hub("test", rows=hub_table(), ids=["0", "2"])
    assert c.ids == ["0", "2"] and c.texts == ["Shirt 0", "Shirt 2"]
    assert c.protocol == "kagl_title" and c.image(1).shape == (80, 60, 3)
    assert (
        c.fingerprint != read_kagl_hub("test", rows=hub_table(text=["Shirt"] * 3), ids=["0", "2"]).fingerprint
    )
    table = hub_table()
    table.pop("text")
    with pytest.raises(DataError, match="no column 'text'"):
        read_kagl_hub("test", rows=table, ids=["0"])
    images = [None, dict(bytes=jpeg()[:99]), dict(bytes=jpeg())]
    for change, kind in ((dict(item_ID=[0, 0, 2]), "duplicate id"), (dict(image=images), "missing picture")):
        c = read_kagl_hub("test", rows=hub_table(**change), ids=["0", "1", "2"], on_error="skip")
        assert kind in c.report.counts and "2" in c.ids


def test_hub_needs_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        read_kagl_hub("test")


def test_hub_through_datasets(monkeypatch):
    class Table(dict):
        def cast_column(self, name, kind):
            return self

    fake = types.SimpleNamespace(
        load_dataset=lambda source: {"data": Table(hub_table())}, Image=lambda decode: None
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert read_kagl_hub("test", ids=["1"]).ids == ["1"]

    def offline(source):
        raise ConnectionError("no network")

    fake.load_dataset = offline
    with pytest.raises(DataError, match="no network"):
        read_kagl_hub("test", ids=["1"])


# text


def test_brands_go_by_whole_words():
    assert remove_brand("Nike Men Shirt", "NIKE") == "Men Shirt"
    assert remove_brand("Nikesh Shirt", "Nike") == "Nikesh Shirt"
    assert remove_brand("Shirt by John  Miller, blue", "john miller") == "Shirt, blue"
    assert remove_brand(" a  b ", "") == "a b"
    assert remove_brand("U.S. Polo (U.S. Polo)", "u.s. polo") and "Polo" not in remove_brand(
        "U.S. Polo", "U.S. Polo"
    )
    assert (
        join_text("Acme Shirt", "", "Acme") == "Shirt" and join_text("Shirt", "Blue.", "") == "Shirt. Blue."
    )


def test_extraction():
    page = (
        "Style Note Wear it with jeans. Product Details Blue shirt, has a spread collar for added comfort "
        "Long sleeves Material and Care Cotton"
    )
    assert extract_visual(page) == "Blue shirt, has a spread collar. Long sleeves."
    assert extract_visual("This lipstick has a red colour") == "" and extract_visual(None) == ""
    assert extract_visual("<p></p>") == ""
    assert [k for k, *_ in sections("Composition A Wash care B")] == ["intro", "shown", "hidden"]
    assert sentences("1. Red shirt 2. Blue hem") == ["Red shirt", "Blue hem"]
    assert cut_purpose("Lace-ups for a snug fit") == "Lace-ups"
    assert token_f1("a b", "a c") == 0.5


# a plain folder


def write_own(root, lines, head="image,text,product,split"):
    (root / "images").mkdir(parents=True, exist_ok=True)
    for k in range(4):
        (root / f"images/{k}.jpg").write_bytes(jpeg(k))
    lines = [l if isinstance(l, bytes) else l.encode() for l in [head, *lines]]
    (root / "catalogue.csv").write_bytes(b"\n".join(lines) + b"\n")
    return root


GOOD = ['0.jpg,"Red, long",a,test', "1.jpg,Red again,a,test", "2.jpg,Blue,b,train"]


def test_folder(tmp_path):
    c = read_folder(write_own(tmp_path, GOOD), "test")
    assert c.ids == ["0.jpg", "1.jpg"] and c.texts[0] == "Red, long"
    assert c.products == ["a", "a"] and c.column("view") == [0, 1] and c.protocol == "folder"
    assert read_folder(tmp_path, "train").ids == ["2.jpg"]


def test_a_folder_too_small_for_a_split_says_how_to_name_one(tmp_path):
    write_own(tmp_path, ["0.jpg,Red,k1", "1.jpg,Blue,k2"], head="image,text,product")
    assert len(read_folder(tmp_path, "train")) == 2
    with pytest.raises(DataError, match="'test' holds no rows .*column 'split'"):
        read_folder(tmp_path, "test")
    write_own(tmp_path, ["0.jpg,Red,k1,train", "1.jpg,Blue,k2,tset"])
    with pytest.raises(DataError, match="1 x unknown split, first: .*'tset'.*column 'split'"):
        read_folder(tmp_path, "test", on_error="skip")


@pytest.mark.parametrize(
    "bad, kind",
    [
        ("9.jpg,No picture,c,test", "missing picture"),
        ("cut.jpg,Cut,c,test", "unreadable picture"),
        ("../x.jpg,Outside,c,test", "path leaves the folder"),
        ("link.jpg,Outside,c,test", "path leaves the folder"),
        (b"3.jpg,Caf\xe9,c,test", "not UTF-8"),
        ("3.jpg,,c,test", "no text"),
        ("0.jpg,Again,c,test", "duplicate id"),
        ("3.jpg,Blue,c,dev", "unknown split"),
        ("3.jpg,Blue", "wrong field count"),
        ("3.jpg,Blue,c,test,more", "wrong field count"),
    ],
)
def test_folder_damage(tmp_path, bad, kind):
    root = write_own(tmp_path / "own", GOOD + [bad])
    (tmp_path / "x.jpg").write_bytes(jpeg())
    (root / "images/link.jpg").symlink_to(tmp_path / "x.jpg")
    (root / "images/cut.jpg").write_bytes(jpeg()[:150])
    with pytest.raises(DataError) as found:
        read_folder(root, "test", check=True)
    assert found.value.kind == kind and (found.value.row == 5 or kind == "unreadable picture")
    c = read_folder(root, "test", on_error="skip")
    assert c.ids == ["0.jpg", "1.jpg"] and c.report.counts == {kind: 1}


def test_folder_the_same_name_in_many_folders(tmp_path):
    for k in range(9):
        for name in ("front", "back"):
            path = tmp_path / f"images/dresses/{k}/{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(k))
    rows = [f"dresses/{k}/{name}.jpg,Dress {k},{k},test" for k in range(9) for name in ("front", "back")]
    (tmp_path / "catalogue.csv").write_text("\n".join(["image,text,product,split", *rows]))
    c = read_folder(tmp_path, "test")
    assert len(set(c.ids)) == 18 and len(c.rows_of) == 9 and c.ids[1] == "dresses/0/back.jpg"
    assert [len(views) for views in c.rows_of.values()] == [2] * 9 and c.column("view") == [0, 1] * 9


def test_folder_two_endings_are_two_pictures(tmp_path):
    root = write_own(tmp_path, ["0.jpg,Red,,test", "0.png,Blue,,test"])
    (root / "images/0.png").write_bytes((root / "images/0.jpg").read_bytes())
    c = read_folder(root, "test")
    assert c.ids == c.products == ["0.jpg", "0.png"]


def test_folder_an_id_column_names_the_pictures(tmp_path):
    root = write_own(tmp_path, ["0.jpg,Red,x7,test", "1.jpg,Blue,x7,test"], head="image,text,id,split")
    with pytest.raises(DataError, match="row 3: duplicate id 'x7'"):
        read_folder(root, "test")
    assert read_folder(root, "test", on_error="skip").ids == ["x7"]


def test_folder_is_a_profiles_world(tmp_path, monkeypatch):
    write_own(tmp_path / "data/folder", GOOD)
    monkeypatch.setenv("UNIFASHION_DATA", str(tmp_path / "data"))
    world = load_profile("folder").world
    assert [open_catalogue(world, split).products for split in ("train", "test")] == [["b"], ["a", "a"]]
    with pytest.raises(DataError, match="split 'val' holds no rows"):
        open_catalogue(world, "val")
    (tmp_path / "data/folder/catalogue.csv").write_text("image,text\n0.jpg,\n")
    with pytest.raises(DataError, match="catalogue.csv, row 2: no text for id '0.jpg'"):
        open_catalogue(world, own_split({"product": "0.jpg"}, False))
    with pytest.raises(ValueError, match="parts are trained on the drawn world, not on folder"):
        open_catalogue(world, "train", part="foundations")
    monkeypatch.delenv("UNIFASHION_DATA")
    with pytest.raises(FileNotFoundError, match="set UNIFASHION_DATA"):
        open_catalogue(world, "train")


def test_folder_without_splits_is_dealt_out_by_product(tmp_path, monkeypatch):
    rows = [f"{view}.jpg,{n},Dress {n},p{n}" for n in range(60) for view in (n % 4,)]
    write_own(tmp_path / "data/folder", rows, head="image,id,text,product")
    monkeypatch.setenv("UNIFASHION_DATA", str(tmp_path / "data"))
    world = load_profile("folder").world
    parts = {split: set(open_catalogue(world, split).products) for split in ("train", "val", "test")}
    assert len(set.union(*parts.values())) == sum(map(len, parts.values())) == 60
    assert len(parts["train"]) >= load_profile("folder").pretrain.batch and min(map(len, parts.values())) > 0


TEXT = "\n".join(["image,text,product,split", *GOOD]) + "\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
    ],
    ids=["CR", "CR LF and a mark", "UTF-16", "UTF-16 BE", "UTF-32"],
)
def test_folder_however_the_table_was_saved(tmp_path, data):
    root = write_own(tmp_path, GOOD)
    want = read_folder(root, "test")
    (root / "catalogue.csv").write_bytes(data)
    c = read_folder(root, "test")
    assert (c.ids, c.texts, c.products) == (want.ids, want.texts, want.products)


@pytest.mark.parametrize(
    "data, message, kind",
    [
        (TEXT.encode("utf-16-le"), "looks like UTF-16 without a byte order mark", "not UTF-8"),
        (b"\xff\xfe" + TEXT.encode("utf-16-le")[:-1], "broken UTF-16", "not UTF-8"),
        (TEXT.replace("text", "t" * 200_000, 1).encode(), "field larger than field limit", "wrong column"),
        (('"' + TEXT).encode(), "unreadable header", "wrong column"),
        (TEXT.replace("product", "text", 1).encode(), "column 'text' comes twice", "wrong column"),
        (TEXT.replace(",", ";").encode(), "parted by commas, not by ';'", "wrong column"),
        (TEXT.replace(",", "\t").encode(), r"parted by commas, not by '\\t'", "wrong column"),
        (b"", "no header", "wrong column"),
    ],
)
def test_folder_a_table_that_is_none_is_named(tmp_path, data, message, kind):
    root = write_own(tmp_path, GOOD)
    (root / "catalogue.csv").write_bytes(data)
    for on_error in ("raise", "skip"):
        with pytest.raises(DataError, match=message) as found:
            read_folder(root, "test", on_error=on_error)
        assert found.value.file.name == "catalogue.csv" and found.value.kind == kind


@pytest.mark.parametrize(
    "bad", ['3.jpg,"open,c,test', '"3.jpg,open,c,test', "3.jpg,ze\0ro,c,test", '3.jpg,"a" b,c,test']
)
def test_folder_a_bad_line_swallows_no_other(tmp_path, bad):
    root = write_own(tmp_path, [GOOD[0], bad, GOOD[1], '2.jpg,"Late, long",d,test'])
    with pytest.raises(DataError, match="catalogue.csv, row 3"):
        read_folder(root, "test")
    c = read_folder(root, "test", on_error="skip")
    assert c.ids == ["0.jpg", "1.jpg", "2.jpg"] and [e.row for e in c.report.skipped] == [3]


def test_folder_a_quoted_text_of_two_lines_is_one_row(tmp_path):
    c = read_folder(write_own(tmp_path, ['0.jpg,"Red,\n""long""",a,test', GOOD[1]]), "test")
    assert c.texts == ['Red,\n"long"', "Red again"]


def test_folder_an_open_quote_in_the_last_column_swallows_no_row(tmp_path):
    lines = ['0.jpg,a,test,"red shirt', "1.jpg,b,test,blue", "2.jpg,c,test,jeans 32\"", "3.jpg,d,test,x"]
    root = write_own(tmp_path, lines, head="image,product,split,text")
    with pytest.raises(DataError, match="row 2: no CSV record: a quote that is not closed"):
        read_folder(root, "test")
    c = read_folder(root, "test", on_error="skip")
    assert c.texts == ["blue", 'jeans 32"', "x"] and c.report.counts == {"wrong field count": 1}


def test_folder_a_text_torn_by_an_unreadable_line_is_left_out(tmp_path):
    root = write_own(tmp_path, [b'0.jpg,"Red\ncaf\xe9\nlong",a,test', GOOD[1]])
    c = read_folder(root, "test", on_error="skip")
    assert c.ids == ["1.jpg"] and {e.row for e in c.report.skipped} == {2, 3, 4}


def test_the_reasons_stand_in_the_error_of_an_empty_split(tmp_path):
    root = write_own(tmp_path, ["8.jpg,Red,a,test", "9.jpg,Red,a,test", "0.jpg,,b,test"])
    with pytest.raises(DataError) as found:
        read_folder(root, "test", on_error="skip")
    assert "(3 seen, 3 left out; 2 x missing picture, first:" in str(found.value)
    assert "row 2: picture '8.jpg' is missing" in str(found.value) and "1 x no text" in str(found.value)
    assert len(found.value.report.skipped) == 3


@pytest.mark.parametrize("deep", [True, False])
def test_pictures_one_folder_off_are_found(tmp_path, deep):
    root = write_own(tmp_path / "own", GOOD)
    place = root / "images/images" if deep else root
    place.mkdir(exist_ok=True)
    for path in (root / "images").glob("*.jpg"):
        path.rename(place / path.name)
    for on_error in ("raise", "skip"):
        with pytest.raises(DataError) as found:
            read_folder(root, "test", on_error=on_error)
        assert f"picture '0.jpg' is missing; it lies in {place}" in str(found.value)


@pytest.mark.parametrize("place", ["own/images", "."])
def test_a_root_one_folder_off_is_told(tmp_path, place):
    root = write_own(tmp_path / "own", GOOD)
    with pytest.raises(DataError, match="does not lie here") as found:
        read_folder(tmp_path / place, "test")
    assert str(found.value).endswith(f"it looks as if it lay in {root}")


def test_an_unknown_split_is_answered_with_the_known_ones(tmp_path):
    root, pack = write_own(tmp_path / "own", GOOD), write_pack(tmp_path / "kagl")
    kaggle = write_kaggle(tmp_path / "kaggle", [line(1)])
    for read in (
        lambda: read_folder(root, "tets"),
        lambda: read_kagl(pack, "tets"),
        lambda: read_kagl_folder(kaggle, "tets", ids=["1"]),
        lambda: read_kagl_hub("tets", rows=hub_table(), ids=["1"]),
        lambda: read_kagl_triplets("tets"),
        lambda: read_fashiongen(tmp_path, "tets"),
    ):
        with pytest.raises(DataError, match="no split 'tets'; there are train, val, test"):
            read()


def test_without_the_repository_the_carried_files_are_missed_by_name(monkeypatch):
    def none():
        raise FileNotFoundError("no repository found")

    monkeypatch.setattr(kagl, "repo_root", none)
    for read in (lambda: kagl_split("test"), lambda: read_kagl_triplets("test"), read_kagl_keypoints):
        with pytest.raises(DataError, match="is part of the repository, not of the installed package"):
            read()


def test_folder_splits_by_hash(tmp_path):
    root = write_own(tmp_path, [f"0.jpg,Red {k},{k},{k}" for k in range(300)], head="image,text,product,id")
    parts = {s: read_folder(root, s).ids for s in ("train", "val", "test")}
    assert (
        sorted(sum(parts.values(), []), key=int) == [str(k) for k in range(300)]
        and 10 < len(parts["test"]) < 60
    )
    assert 10 < len(parts["val"]) < 60


def test_folder_empty_and_wrong_header(tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        read_folder(write_own(tmp_path / "a", GOOD[2:]), "test")
    with pytest.raises(DataError, match="no column 'text'"):
        read_folder(write_own(tmp_path / "b", GOOD, head="image,words,product,split"), "test")
    with pytest.raises(DataError, match="missing"):
        read_folder(tmp_path / "c", "test")


# the door


def test_door(tmp_path, monkeypatch):
    write_pack(tmp_path / "kagl")
    monkeypatch.setenv("UNIFASHION_DATA", str(tmp_path))
    world = World("kagl")
    assert [len(open_catalogue(world, s)) for s in ("train", "val", "test")] == [6, 1, 3]
    few = open_catalogue(World("kagl", products=2), "train")
    assert len(few) == 2 and set(few.ids) < set(open_catalogue(World("kagl", products=3), "train").ids)
    assert len(open_catalogue(World("kagl", products=2), "test")) == 3
    with pytest.raises(ValueError, match="there are drawn, kagl, folder, fashiongen"):
        open_catalogue(World("mnist"), "train")
    with pytest.raises(DataError, match="file is missing"):
        open_catalogue(World("fashiongen"), "train")
    monkeypatch.delenv("UNIFASHION_DATA")
    with pytest.raises(FileNotFoundError, match="UNIFASHION_DATA"):
        open_catalogue(world, "train")


def test_door_reads_the_drawn_world(tmp_path, monkeypatch):
    write_h5(tmp_path / "fashiongen_8_8_validation.h5")
    module = types.ModuleType("unifashion.shop.fashiongen_files")
    module.drawn_catalogue = lambda world, workers, part: tmp_path
    monkeypatch.setitem(sys.modules, "unifashion.shop.fashiongen_files", module)
    c = open_catalogue(World("drawn", products=6, height=8, width=6), "test")
    assert c.name == c.protocol == "drawn" and len(c) == 6
