"""A folder in shards: made once whoever makes them, joined, searched as in memory; changes, kills, two at
once, other weights, pictures and questions that cannot be."""

import hashlib
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.data.samples import DataError
from unifashion.evidence.damage import huge_png
from unifashion.ground.cluster import LEAST, write_settings
from unifashion.models.catalogue_index import CatalogueIndex
from unifashion.unified import joined as J
from unifashion.unified import shards as S
from unifashion.unified.joined import CatalogueSearch, join, open_catalogue, open_index
from unifashion.unified.own_pictures import Encoded, PictureSearch, home_of
from unifashion.unified.shards import embed_shard, open_plan, spans, told, workflow_command
from unifashion.unified.trained_models import PictureVectors

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks a process, or names a file in bytes")
COUNT = 24


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class Model:
    "Pictures as the colours of their quarters: a query a quarter; and of sixteen cells, together."

    encoder = SimpleNamespace(size=(64, 48), identity="quarters")
    source = "nowhere"

    def __init__(self, identity="quarters"):
        self.identity = identity
        self.given = []

    def of_pictures(self, pictures):
        self.given.append(len(pictures))
        cells = np.stack(pictures).reshape(-1, 4, 16, 4, 12, 3).mean((2, 4))  # (n, 4, 4, 3)
        quarters = cells.reshape(-1, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 12)
        looks = unit(cells.reshape(-1, 48) - 128)
        return PictureVectors(unit(quarters - 128).astype(np.float16), looks.astype(np.float16))

    def of_text(self, text):
        return torch.from_numpy(unit(np.random.default_rng(len(text)).normal(size=(1, 12))))


def paint(folder, name, seed):
    "Sixteen cells of colours by lot."
    cells = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cells.repeat(16, 0).repeat(12, 1)).save(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shop(tmp_path):
    folder = (tmp_path / "shop").resolve()
    for n in range(COUNT):
        paint(folder, f"{'women/' * (n % 2)}{n:02d}.png", n)
    return folder


@pytest.fixture
def model():
    return Model()


def embedded(model, plan, order=None):
    "Pictures of each shard that were encoded now."
    return [embed_shard(model, plan, number)[1] for number in order or range(plan.shards)]


def answers(search, queries, k):
    return [[(hit.name, pytest.approx(hit.score, abs=1e-5)) for hit in search.search(q, k)] for q in queries]


# --- the plan


def test_a_shard_follows_from_the_name_alone(model, shop):
    plan = open_plan(model, shop, 5)
    for name in ("a.png", "women/01.png", "süß.jpg"):
        told_by_hand = int.from_bytes(hashlib.sha256(f"shard/{name}".encode()).digest()[:8]) * 5 >> 64
        assert plan.shard_of(name) == told_by_hand
    parts = plan.dealt()
    assert sum(map(len, parts)) == COUNT and parts == [plan.members(number) for number in range(5)]


def test_a_new_picture_changes_one_shard_and_no_other(model, shop):
    plan = open_plan(model, shop, 5)
    embedded(model, plan)
    assert plan.waiting(plan.dealt()) == {}
    paint(shop, "new.png", 99)
    assert list(plan.waiting(plan.dealt())) == [plan.shard_of("new.png")]


def test_the_number_of_shards_is_chosen_once(model, shop):
    assert open_plan(model, shop) is None
    plan = open_plan(model, shop, 5)
    assert open_plan(model, shop) == open_plan(model, shop, 5) == plan
    with pytest.raises(ValueError, match=r"shop is embedded in 5 shards, not in 4: .* remove .*shards and"):
        open_plan(model, shop, 4)


@pytest.mark.parametrize("number, words", [(5, "no shard 5: the 5 of"), (-1, "from 0 to 4")])
def test_a_shard_that_is_none_is_refused(model, shop, number, words):
    with pytest.raises(ValueError, match=words):
        embed_shard(model, open_plan(model, shop, 5), number)


def test_folders_and_numbers_that_cannot_be_are_refused(model, tmp_path):
    with pytest.raises(DataError, match="gone: no such folder"):
        open_plan(model, tmp_path / "gone", 4)
    for number in (0, -3, 100_000):
        with pytest.raises(ValueError, match=f"has 1 to 99999 shards; here: {number}"):
            open_plan(model, tmp_path, number)
    assert open_plan(model, tmp_path) is None  # nothing was written
    with pytest.raises(DataError, match="no picture in this folder"):
        embed_shard(model, open_plan(model, tmp_path, 2), 0)


@linux
def test_a_name_that_is_no_text_is_named(model, shop):
    (shop / "women/01.png").rename(os.fsdecode(os.fsencode(shop) + b"/\xff.png"))
    with pytest.raises(DataError, match=r"the name of the picture '\\udcff.png' is not UTF-8: rename it"):
        open_plan(model, shop, 2).dealt()


# --- made once


@pytest.mark.parametrize("shards", [1, 4, 40])
def test_a_finished_shard_is_never_redone(model, shop, shards):
    plan = open_plan(model, shop, shards)
    assert sum(embedded(model, plan)) == sum(model.given) == COUNT
    files = {path: path.stat().st_mtime_ns for path in plan.finished().values()}
    assert embedded(model, plan) == [0] * shards and sum(model.given) == COUNT
    assert len(files) == shards
    assert {path: path.stat().st_mtime_ns for path in plan.finished().values()} == files


def test_what_changed_is_encoded_alone(model, shop):
    plan = open_plan(model, shop, 3)
    embedded(model, plan)
    paint(shop, "00.png", 77)
    paint(shop, "new.png", 78)
    (shop / "women/01.png").unlink()
    assert sum(embedded(model, plan)) == sum(model.given) - COUNT == 2
    names = sorted(name for path in plan.finished().values() for name in told(path).names)
    assert "women/01.png" not in names and "new.png" in names and len(names) == COUNT


def test_a_file_that_was_damaged_is_made_again(model, shop):
    plan = open_plan(model, shop, 3)
    first = embedded(model, plan)
    plan.finished()[1].write_bytes(b"torn")
    with pytest.raises(DataError, match=r"00001\.\w+\.safetensors: no shard that can be read; remove it"):
        join(plan)
    assert embedded(model, plan) == [0, first[1], 0]
    join(plan)


def dies(model, plan, number):
    "Encodes three pictures, one at a time, and is killed by the fourth, as for want of memory."
    encode = model.of_pictures

    def of_pictures(pictures):
        if len(model.given) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(pictures)

    model.of_pictures = of_pictures
    S.BATCH = S.KEEP = 1
    embed_shard(model, plan, number)


@linux
def test_a_killed_maker_leaves_a_part_and_the_next_goes_on_from_it(model, shop):
    plan = open_plan(model, shop, 2)
    process = multiprocessing.get_context("fork").Process(target=dies, args=(model, plan, 1))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and plan.finished() == {}
    assert [path.name for path in plan.home.glob("*.safetensors")] == ["00001.part.safetensors"]
    own, new = embed_shard(model, plan, 1)
    assert new == len(own.names) - 3 == sum(model.given) and list(plan.finished()) == [1]
    assert not list(plan.home.glob("*.part.*"))


def takes(model, plan, barrier, answer):
    barrier.wait()
    answer.put(embed_shard(model, plan, 0)[1])


@linux
def test_of_several_takers_one_does_the_work(model, shop):
    plan = open_plan(model, shop, 1)
    context = multiprocessing.get_context("fork")
    barrier, answer = context.Barrier(3), context.Queue()
    takers = [context.Process(target=takes, args=(model, plan, barrier, answer)) for _ in range(3)]
    for taker in takers:
        taker.start()
    said = sorted(answer.get(timeout=60) for _ in takers)
    for taker in takers:
        taker.join()
    assert said == [0, 0, COUNT]


# --- joined and searched


@pytest.mark.parametrize("shards", [1, 3, 30])
def test_in_whatever_order_they_are_made_the_answers_are_those_of_the_whole(model, shop, shards):
    queries = ["red", "a blue dress", shop / "04.png", str(shop / "women/07.png")]
    whole = PictureSearch.build(model, shop)
    plan = open_plan(model, shop, shards)
    embedded(model, plan, random.Random(shards).sample(range(shards), shards))
    search, new = open_catalogue(model, shop)
    assert new == 0 and len(search) == len(whole) == COUNT
    for k in (1, 5, COUNT, 10 * COUNT):
        assert answers(search, queries, k) == answers(whole, queries, k)


def test_after_changes_the_answers_are_those_of_the_whole(model, shop):
    plan = open_plan(model, shop, 4)
    embedded(model, plan)
    join(plan)
    rng = random.Random(3)
    for step in range(6):
        paint(shop, f"{rng.randrange(30):02d}.png", 100 + step)
        paint(shop, f"{rng.randrange(30):02d}.png", 200 + step)
        (shop / rng.choice(sorted(plan.dealt()[step % 4]))).unlink()
        embedded(model, plan)
        search = open_catalogue(model, shop)[0]
        whole = PictureSearch.build(model, shop)
        for k in (3, 100):
            asked = ["red", shop / whole.names[step]]
            assert answers(search, asked, k) == answers(whole, asked, k)


def test_joined_twice_nothing_is_written(model, shop):
    plan = open_plan(model, shop, 4)
    embedded(model, plan)
    join(plan)
    before = {path: path.stat().st_mtime_ns for path in plan.home.rglob("*.json")}
    join(plan)
    assert {path: path.stat().st_mtime_ns for path in plan.home.rglob("*.json")} == before
    os.utime(shop / "00.png")  # another time, the same picture
    embedded(model, plan)
    segments = open_index(plan, "queries").manifest.segments
    join(plan)
    assert open_index(plan, "queries").manifest.segments == segments


def test_a_catalogue_of_which_most_was_replaced_is_compacted(model, shop):
    plan = open_plan(model, shop, 4)
    embedded(model, plan)
    join(plan)
    for round_ in (1, 2, 3):
        for n in range(0, COUNT, 2):
            paint(shop, f"{n:02d}.png", 100 * round_ + n)
        embedded(model, plan)
        join(plan)
    index = open_index(plan, "queries")
    assert len(index) == len(index.alive) == COUNT


def test_a_joining_that_was_killed_is_made_good(model, shop, monkeypatch):
    plan = open_plan(model, shop, 4)
    embedded(model, plan)
    bring = J.bring

    def killed(plan, kind, *given):
        if kind == "looks":
            raise KeyboardInterrupt
        bring(plan, kind, *given)

    monkeypatch.setattr(J, "bring", killed)
    with pytest.raises(KeyboardInterrupt):
        join(plan)
    paint(shop, "00.png", 77)
    embedded(model, plan)
    monkeypatch.setattr(J, "bring", bring)
    search = open_catalogue(model, shop)[0]
    asked = ["red", shop / "00.png"]
    assert answers(search, asked, 50) == answers(PictureSearch.build(model, shop), asked, 50)


def test_shards_that_lack_are_listed_by_number(model, shop):
    plan = open_plan(model, shop, 8)
    for number in (1, 5, 6):
        embed_shard(model, plan, number)
    with pytest.raises(ValueError, match="5 of the 8 shards of .* are not embedded: 0, 2 to 4, 7; make them"):
        open_catalogue(model, shop)
    assert spans([3]) == "3" and spans([0, 1, 2]) == "0 to 2"


def test_what_was_found_and_has_changed_since_is_named(model, shop):
    embedded(model, open_plan(model, shop, 4))
    search = open_catalogue(model, shop)[0]
    hits = search.search("red", 99)
    assert search.changed(hits) == []
    paint(shop, "00.png", 77)
    (shop / "women/01.png").unlink()
    assert sorted(search.changed(hits)) == ["00.png", "women/01.png"]
    whole = PictureSearch.build(model, shop)
    paint(shop, "02.png", 78)
    assert whole.changed(whole.search("red", 99)) == ["02.png"]


def test_a_folder_without_shards_is_searched_as_before(model, shop):
    search, new = open_catalogue(model, shop)
    assert isinstance(search, PictureSearch) and new == COUNT and open_catalogue(model, shop)[1] == 0
    with pytest.raises(ValueError, match="shop is not embedded in shards, which a fast search needs"):
        open_catalogue(model, shop, fast=True)


def test_a_fast_search_names_what_the_exact_one_does(model, tmp_path):
    pytest.importorskip("faiss", reason="FAISS is not installed: pip install faiss-cpu")
    plan = open_plan(model, tmp_path, 2)
    rng = np.random.default_rng(0)
    for number in range(2):
        search = PictureSearch(model, tmp_path)
        vectors = unit(rng.normal(size=(200, 4, 12))).astype(np.float16)
        looks = unit(rng.normal(size=(200, 48))).astype(np.float16)
        for n in range(200):
            search.encoded[f"{number} {n}"] = Encoded("", vectors[n], looks[n])
        search.write(plan.file(number, {}))
    join(plan)
    asked = torch.from_numpy(vectors[7, 2:3].astype(np.float32))
    model.of_text = lambda text: asked / asked.norm()
    fast, exact = (CatalogueSearch(model, plan, fast).search("red", 1) for fast in (True, False))
    assert fast == exact and fast[0].name == "1 7"


# --- other weights


def test_shards_of_other_weights_are_said_and_not_encoded_anew(model, shop):
    embedded(model, open_plan(model, shop, 4))
    other = Model("others")
    words = r"4 shards by another model \(quarters, not others\): .*--model nowhere, "
    with pytest.raises(ValueError, match=words):
        open_catalogue(other, shop)
    assert other.given == []
    plan = open_plan(other, shop, 3)  # a place of its own
    assert sum(embedded(other, plan)) == COUNT and len(open_catalogue(other, shop)[0]) == COUNT


def test_a_file_of_other_weights_is_refused(model, shop):
    plan = open_plan(model, shop, 2)
    embedded(model, plan)
    other = open_plan(Model("others"), shop, 2)
    embed_shard(Model("others"), other, 0)
    strange = other.finished()[0].read_bytes()
    plan.finished()[0].write_bytes(strange)
    with pytest.raises(ValueError, match=r"was encoded by another model \(others, not quarters\): remove it"):
        join(plan)
    paint(shop, next(iter(plan.members(0))), 55)
    with pytest.raises(ValueError, match=r"encoded by another model \(others, not quarters\)"):
        embed_shard(model, plan, 0)


@pytest.mark.parametrize("kind", J.KINDS)
def test_an_index_of_other_weights_and_a_damaged_one_are_refused(model, shop, kind):
    plan = open_plan(model, shop, 2)
    embedded(model, plan)
    join(plan)
    for path in (plan.home / kind).glob("catalogue.json"):
        path.unlink()
    CatalogueIndex.build(plan.home / kind, "others", ["a"], unit(np.ones((1, 4, 12))))
    with pytest.raises(ValueError, match=f"built with others; the model here is quarters.*remove .*{kind}"):
        open_catalogue(model, shop)
    (plan.home / kind / "catalogue.json").write_text("{")
    with pytest.raises(ValueError, match=f"no manifest of a catalogue.*remove .*{kind}"):
        open_catalogue(model, shop)


# --- pictures and questions that cannot be


def write_bad(folder):
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    (folder / "huge.png").write_bytes(huge_png(20_000))
    (folder / "torn.png").write_bytes((folder / "00.png").read_bytes()[:60])


def test_pictures_that_cannot_be_read_are_left_out_with_the_reason(model, shop):
    write_bad(shop)
    plan = open_plan(model, shop, 3)
    for expected in (COUNT, 0):
        done = [embed_shard(model, plan, number) for number in range(3)]
        said = " ".join(sorted(line for own, _ in done for line in own.left_out))
        assert sum(new for _, new in done) == expected
        assert re.search(r"huge.png: .* \(Image size \(400000000 pixels\).*one.png: .*1 x 1 pixels.*torn.png",
                         said)
    assert len(open_catalogue(model, shop)[0]) == COUNT


def test_a_folder_of_which_nothing_can_be_read(model, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
    plan = open_plan(model, tmp_path, 2)
    assert embedded(model, plan) == [0, 0]
    with pytest.raises(DataError, match="none of its pictures can be read"):
        join(plan)


@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("query, k, words", [
    ("one.png", 5, "a picture of 1 x 1 pixels"),
    ("huge.png", 5, "400000000 pixels"),
    ("torn.png", 5, "truncated or unreadable picture"),
    ("gone.png", 5, "gone.png: no such picture"),
    ("", 5, "the query is empty"),
    (" \t", 5, "the query is empty"),
    ("red", 0, "from 1; here: 0"),
])
def test_questions_that_cannot_be_are_refused(model, shop, shards, query, k, words):
    write_bad(shop)
    if shards:
        embedded(model, open_plan(model, shop, shards))
    search = open_catalogue(model, shop)[0]
    with pytest.raises(ValueError, match=words):
        search.search(shop / query if query.endswith(".png") else query, k)


# --- many machines


def planned(model, shop, profile="mini", most=1000):
    plan = open_plan(model, shop, 3)
    embed_shard(model, plan, 1)
    waiting = plan.waiting(plan.dealt())
    return plan, waiting, workflow_command(plan, waiting, most, ["echo", "a 'b' {c}"], profile)


def test_what_a_job_asks_for():
    # 2,300 pictures at 300 a minute are 8 minutes, in fives 10; 64 KiB each are 143 MiB
    asked = S.asks_for(2300, "mini")
    assert (asked["runtime"], asked["mem_mb"]) == (LEAST + 10, 8192 + 143) and "gpu" not in asked
    assert S.asks_for(2300, "paper")["gpu"] == 1


def test_a_dry_run_under_slurm_has_a_job_a_shard_that_is_not_finished(model, shop, tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    plan, waiting, command = planned(model, shop, "paper")
    write_settings("slurm", tmp_path / "slurm")
    options = ["--profile", str(tmp_path / "slurm"), "--dry-run", "--printshellcmds"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    jobs = re.split(r"^rule shard:", said, flags=re.M)[1:]
    assert len(jobs) == 2 and list(waiting) == [0, 2]
    for number, path in waiting.items():
        job = next(job for job in jobs if path.name in job)
        assert f"exec echo 'a '\"'\"'b'\"'\"' {{c}}' --shard {number}" in job, said
        assert "runtime=" in job and f"mem_mb={8192 + 62}" in job and "gpu=1" in job
    assert not any(path.exists() for path in waiting.values())


def test_the_cache_keeps_a_place_for_a_model_and_a_folder(model, shop):
    homes = {home_of(own, folder) for own in (model, Model("others")) for folder in (shop, shop.parent)}
    assert len(homes) == 4
