"""Annotation: nothing but picture and category gets in, nothing is lost or doubled when it is killed; key
words by hand."""

import inspect
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from unifashion.data.retrieval_readers import read_fashioniq_cap
from unifashion.data.samples import Catalogue, DataError
from unifashion.data.stores import FileStore
from unifashion.data.texts import read_json
from unifashion.evidence.key_words import (
    absent_rows,
    count_words,
    drawn_sentences,
    lemma,
    lemmas,
    list_summary,
    modification_sentences,
    pooled,
    prompt_rows,
    public_sentences,
    rank_figure,
    word_clouds,
    word_rows,
    word_table,
)
from unifashion.unified import annotate as an
from unifashion.unified.annotate import (
    PROMPT_WORDS,
    Llava,
    annotate,
    annotate_with_guidance,
    build_leaking_prompt,
    build_prompt,
)

CANARY = "zanzibar"


def make_gallery(folder, n=23, text=CANARY):
    "Pictures of one grey each, whose catalogue carries a text that nobody may see."
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"B00{i:07d}" for i in range(n)]
    for i, name in enumerate(names):
        if not (folder / "images" / f"{name}.png").exists():
            Image.fromarray(np.full((8, 6, 3), 5 * i, np.uint8)).save(folder / "images" / f"{name}.png")
    keys = [f"{name}.png" for name in names]
    columns = {
        "id": names,
        "product": list(names),
        "text": [text] * n,
        "category": ["dress" if i % 2 else "toptee" for i in range(n)],
    }
    return Catalogue("fashioniq", "val", columns, FileStore(folder / "images", tuple(keys)), keys)


class Recorder:
    "Names the grey of each picture, and keeps all that it was given."

    def __init__(self):
        self.images, self.prompts, self.batches = [], [], []

    def __call__(self, images, prompts):
        self.images += images
        self.prompts += prompts
        self.batches.append(len(images))
        return [
            f"a {'dress' if 'dress in' in prompt else 'top'} of grey {int(image[0, 0, 0])}"
            for image, prompt in zip(images, prompts)
        ]


def test_the_released_schema_in_the_gallerys_order(tmp_path):
    gallery, path, seen = (
        make_gallery(tmp_path),
        tmp_path / "out" / "next_llava.val.dress.caption.json",
        Recorder(),
    )
    report = annotate(gallery, seen, "recorder", path, size=5)
    rows = json.loads(path.read_text())
    assert [list(row) for row in rows] == [["image", "caption", "text_guidance"]] * 23 and [
        row["image"] for row in rows
    ] == gallery.ids
    assert [row["caption"] for row in rows] == [
        f"a {'dress' if i % 2 else 'top'} of grey {5 * i}" for i in range(23)
    ] and {row["text_guidance"] for row in rows} == {""}
    assert seen.batches == [5, 5, 5, 5, 3] and (report.rows, report.kept, report.skipped) == (23, 23, [])
    assert sorted(p.name for p in path.parent.iterdir()) == [path.with_suffix(".card.json").name, path.name]
    assert read_fashioniq_cap(path.parent, "dress", "val", gallery)[0] == {
        row["image"]: row["caption"] for row in rows
    }
    card = read_json(path.with_suffix(".card.json"))
    assert (
        card["captioner"] == "recorder"
        and card["guided"] == 0
        and card["prompts"] == sorted({build_prompt("dress"), build_prompt("toptee")})
    )


def test_no_text_of_the_data_reaches_the_captioner(tmp_path):
    assert list(inspect.signature(build_prompt).parameters) == ["category", "words"]
    assert set(inspect.signature(annotate).parameters) == {
        "gallery",
        "captioner",
        "name",
        "path",
        "size",
        "on_error",
        "worker",
        "workers",
    }
    gallery, seen = make_gallery(tmp_path), Recorder()
    annotate(gallery, seen, "recorder", tmp_path / "a.json")
    assert (
        len(seen.prompts) == 23
        and set(seen.prompts) == {build_prompt("dress"), build_prompt("toptee")}
        and CANARY not in " ".join(seen.prompts)
    )
    assert all(np.array_equal(image, gallery.image(i)) for i, image in enumerate(seen.images))
    other = make_gallery(tmp_path, text="something else")  # texts change nothing, not even the key
    annotate(other, boom, "recorder", tmp_path / "a.json")


def boom(images, prompts):
    raise AssertionError("it was finished")


def test_guidance_is_a_way_of_its_own_and_leaves_its_mark(tmp_path):
    gallery, seen = make_gallery(tmp_path), Recorder()
    told = {gallery.ids[3]: f"Is {CANARY}, with a belt"}
    annotate_with_guidance(gallery, told, seen, "recorder", tmp_path / "a.json")
    assert [CANARY in prompt for prompt in seen.prompts] == [i == 3 for i in range(23)] and seen.prompts[
        0
    ] == build_prompt("toptee")
    assert [row["text_guidance"] for row in read_json(tmp_path / "a.json")] == [
        told.get(i, "") for i in gallery.ids
    ]
    card = read_json(tmp_path / "a.card.json")
    assert card["guided"] == 1 and card["captioner"] == "recorder, with guidance"
    honest = Recorder()
    annotate(
        gallery, honest, "recorder", tmp_path / "a.json"
    )  # the leaking file does not pass for an honest one
    assert len(honest.prompts) == 23 and CANARY not in (tmp_path / "a.json").read_text()
    assert build_leaking_prompt("dress", "is red").startswith(build_prompt("dress"))


SCRIPT = (
    "\n"
    "import sys, time\n"
    "from pathlib import Path\n"
    "from unifashion.unified.annotate import annotate\n"
    "from unifashion.data.samples import Catalogue\n"
    "from unifashion.data.stores import FileStore\n"
    "folder, pictures = map(Path, sys.argv[1:])\n"
    "keys = sorted(p.name for p in pictures.iterdir())\n"
    "names = [key[:-4] for key in keys]\n"
    'columns = {"id": names, "product": names, "text": [""] * len(keys), "category": ["dress" if '
    'i % 2 else "toptee" for i in range(len(keys))]}\n'
    'gallery = Catalogue("fashioniq", "val", columns, FileStore(pictures, tuple(keys)), keys)\n'
    "def slow(images, prompts):\n"
    '    with open(folder / "asked.txt", "a") as file: file.write("1 ")\n'
    "    time.sleep(0.02)\n"
    "    return [f\"a {'dress' if 'dress in' in prompt else 'top'} of grey {int(image[0, 0, 0])}\" for "
    "image, prompt in zip(images, prompts)]\n"
    'print("ready", flush=True)\n'
    'annotate(gallery, slow, "recorder", folder / "a.json", size=1)\n'
)


def test_killed_at_random_moments_it_ends_with_equal_bytes(tmp_path):
    gallery, whole, folder = make_gallery(tmp_path), tmp_path / "whole", tmp_path / "killed"
    annotate(gallery, Recorder(), "recorder", whole / "a.json", size=1)
    folder.mkdir()
    rng, kills = random.Random(4), 0
    for pause in [rng.uniform(0, 0.2) for _ in range(4)] + [None]:  # the last may end
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "images")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout.readline() == "ready\n"
        if pause is not None:
            time.sleep(pause)
            kills += process.poll() is None
            process.kill()
        process.wait(60)
        process.stdout.close()
    assert kills >= 3 and process.returncode == 0
    for name in ("a.json", "a.card.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["a.card.json", "a.json", "asked.txt"]
    asked = len((folder / "asked.txt").read_text().split())
    assert 23 <= asked <= 23 + kills, "a shard that was written is not asked for again"


def test_killed_between_file_and_card(tmp_path, monkeypatch):
    gallery, seen = make_gallery(tmp_path), Recorder()

    def dies(path, value):
        if "card" in path.name:
            raise KeyboardInterrupt
        return write_json(path, value)

    write_json = an.write_json
    monkeypatch.setattr(an, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        annotate(gallery, seen, "recorder", tmp_path / "a.json", size=5)
    before = (tmp_path / "a.json").read_bytes()
    monkeypatch.setattr(an, "write_json", write_json)
    assert annotate(gallery, boom, "recorder", tmp_path / "a.json", size=5).kept == 23
    assert (tmp_path / "a.json").read_bytes() == before and not list(tmp_path.glob(".a.json*"))


def test_processes_share_the_work(tmp_path):
    gallery, each = make_gallery(tmp_path), [Recorder(), Recorder()]
    first = annotate(gallery, each[1], "recorder", tmp_path / "a.json", size=5, worker=1, workers=2)
    assert not (tmp_path / "a.json").exists() and first.kept == 0
    annotate(gallery, each[0], "recorder", tmp_path / "a.json", size=5, worker=0, workers=2)
    annotate(gallery, Recorder(), "recorder", tmp_path / "b.json", size=5)
    assert (each[1].batches, each[0].batches) == ([5, 5], [5, 5, 3]) and (
        tmp_path / "a.json"
    ).read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("change", ["name", "size", "picture", "edited"])
def test_whatever_decides_the_captions_makes_a_new_file(tmp_path, change):
    gallery, path, seen = make_gallery(tmp_path), tmp_path / "a.json", Recorder()
    annotate(gallery, Recorder(), "one", path, size=5)
    if change == "picture":
        time.sleep(0.01)
        Image.fromarray(np.full((9, 6, 3), 200, np.uint8)).save(tmp_path / "images" / gallery.keys[0])
        gallery = Catalogue(
            "fashioniq",
            "val",
            gallery.columns,
            FileStore(tmp_path / "images", tuple(gallery.keys)),
            gallery.keys,
        )
    if change == "edited":
        path.write_text(path.read_text().replace("grey 5", "grey 6"))
    annotate(gallery, seen, "two" if change == "name" else "one", path, size=4 if change == "size" else 5)
    assert len(seen.prompts) == 23


def test_an_unreadable_picture_and_an_empty_caption(tmp_path):
    gallery, path = make_gallery(tmp_path), tmp_path / "a.json"
    (tmp_path / "images" / gallery.keys[11]).write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=f"picture '{gallery.ids[11]}'"):
        annotate(gallery, Recorder(), "one", path, size=5)
    kept = sorted(p.name for p in next(tmp_path.glob(".a.json*.parts")).iterdir())
    assert kept == ["000000.json", "000001.json"]  # what came before it is not lost
    silent = lambda images, prompts: ["" if image[0, 0, 0] == 100 else " so\n it is " for image in images]
    report = annotate(gallery, silent, "one", path, size=5, on_error="skip")
    assert report.counts.get("no caption") == 1 and len(report.skipped) == 2 and report.kept == 21
    rows = read_json(path)
    assert (
        len(rows) == 21
        and gallery.ids[11] not in {r["image"] for r in rows}
        and rows[-1]["caption"] == "so it is"
    )
    again = annotate(gallery, boom, "one", path, size=5, on_error="skip")
    assert [(e.reason, e.row, e.kind) for e in again.skipped] == [
        (e.reason, e.row, e.kind) for e in report.skipped
    ]
    with pytest.raises(DataError):
        annotate(
            gallery, boom, "one", path, size=5, on_error="raise"
        )  # what was left out then is not passed over now


def test_a_captioner_that_answers_too_little_is_named(tmp_path):
    with pytest.raises(ValueError, match="half: 2 captions for 5 pictures"):
        annotate(
            make_gallery(tmp_path), lambda images, prompts: ["a", "b"], "half", tmp_path / "a.json", size=5
        )
    with pytest.raises(ValueError, match="not one picture has a caption"):
        annotate(
            make_gallery(tmp_path),
            lambda images, prompts: [""] * len(images),
            "none",
            tmp_path / "b.json",
            on_error="skip",
        )


def test_a_hub_model_is_loaded_late_and_read_behind_the_prompt():
    import torch

    captioner = Llava("some/llava", max_new_tokens=3)
    assert captioner.parts is None

    class Batch(dict):
        def to(self, device):
            return self

    class Processor:
        def __call__(self, images, text, padding, return_tensors):
            self.text = text
            return Batch(
                input_ids=torch.zeros(len(images), 7, dtype=torch.long),
                pixel_values=torch.zeros(len(images), 3),
            )

        def batch_decode(self, ids, skip_special_tokens):
            return [" ".join(map(str, row)) for row in ids.tolist()]

    class Model:
        device, dtype = "cpu", torch.float16

        def generate(self, input_ids, pixel_values, do_sample, max_new_tokens):
            assert not do_sample and pixel_values.dtype == torch.float16
            return torch.cat([input_ids, torch.arange(max_new_tokens)[None].expand(len(input_ids), -1)], 1)

    captioner.parts = Processor(), Model()
    assert (
        captioner([0, 0], ["what?", "and?"]) == ["0 1 2", "0 1 2"]
        and captioner.parts[0].text[0] == "USER: <image>\nwhat? ASSISTANT:"
    )


def test_lemmas_by_hand():
    assert lemmas("Is darker, with LONGER sleeves and more buttons") == ["dark", "long", "sleeve", "button"]
    assert (
        lemmas("a gray V neck tshirt; t shirt") == ["grey", "v-neck", "t-shirt", "t-shirt"]
        and lemmas("is much more, of the same!") == []
    )
    assert lemma("darker") == lemma("dark") and lemma("dresses") == "dress"


def test_counts_by_hand():
    count = count_words(["red dress", "red, red!", "blue sleeves", "it is"])
    assert (count.sentences, count.counts) == (4, {"red": 2, "blue": 1, "dress": 1, "sleeve": 1})
    assert (count.share("Red"), count.rank("sleeves"), count.rank("matte"), count.share("matte")) == (
        50,
        4,
        None,
        0,
    )
    both = pooled({"a": count, "b": count_words(["blue", "blue"])})
    assert both.sentences == 6 and list(both.counts)[:2] == ["blue", "red"] and both.counts["blue"] == 3
    with pytest.raises(ValueError, match="no sentences"):
        count_words([])


def test_the_prompts_words_are_all_listed():
    count = count_words(["a darker print", "shiny", "plain and shiny"])
    rows = prompt_rows(count)
    assert (
        {r["word"] for r in rows} == set(PROMPT_WORDS)
        and [r["word"] for r in rows][0] == "shiny"
        and rows[0]["share"] == pytest.approx(200 / 3)
    )
    assert [r["rank"] for r in rows].count(None) == len(rows) - 4  # darker, print, shiny, plain
    said = list_summary(count)
    assert (
        "4 are among the 29 commonest of 3 sentences" in said
        and "of a thousand: none" in said
        and "crochet" in said.split("In none:")[1]
    )
    table = word_rows({"dress": count}, "by hand")
    assert {r["protocol"] for r in table} == {"by hand, dress", "by hand, all"} and all(
        0 <= r["low"] <= r["value"] <= r["high"] <= 100 and r["n"] == 3 for r in table
    )
    assert "**shiny**" in word_table({"dress": count}) and "eastern" in word_table({"dress": count})


def test_drawn_sentences_and_pictures_repeat_themselves():
    from unifashion.ground.show import png_bytes

    drawn = drawn_sentences(40, 3)
    assert drawn == drawn_sentences(40, 3) == modification_sentences(40, 3) != drawn_sentences(40, 4)
    counts = {category: count_words(texts) for category, texts in drawn.items()}
    assert (
        png_bytes(word_clouds(counts, "t")) == png_bytes(word_clouds(counts, "t"))
        and len(png_bytes(rank_figure(pooled(counts), "t"))) < 80 << 10
    )


def test_absent_files_leave_blanks(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIFASHION_DATA", str(tmp_path))
    assert modification_sentences(0, 0) == {} and {r["status"] for r in absent_rows("fashioniq, train")} == {
        "not run"
    }


def test_the_real_sentences():
    folder = os.environ.get("UNIFASHION_DATA")
    if not folder or not (Path(folder) / "annotations" / "fashion_iq").exists():
        pytest.skip("UNIFASHION_DATA has no annotations/fashion_iq")
    texts = public_sentences(Path(folder) / "annotations" / "fashion_iq")
    assert {name: len(found) for name, found in texts.items()} == {
        "dress": 11970,
        "shirt": 11976,
        "toptee": 12042,
    }  # 12 blank sentences
    dresses = count_words(texts["dress"])
    assert {"sleeve", "black", "long", "short", "color"} <= set(dresses.top(6)) and dresses.rank(
        "eastern"
    ) is None
