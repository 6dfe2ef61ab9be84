"Noun chunks: MGD's form, true of the garment, and the counts of the released files."

import json
import os
from pathlib import Path

import numpy as np
import pytest

from unifashion.ground.core import stream
from unifashion.shop.captions import STYLES, noun_chunks
from unifashion.shop.phrases import agrees, mentions
from unifashion.wardrobe.garments import KINDS
from unifashion.wardrobe.sampling import sample_garment

RELEASED = {"vitonhd/captions": 13679, "dresscode/fine_captions": 26400, "dresscode/coarse_captions": 27380}


def of_form(phrases):
    return len(phrases) == 3 and all(isinstance(p, str) and 1 <= len(p.split()) <= 15 for p in phrases)


@pytest.mark.parametrize("style", STYLES)
def test_three_true_phrases_for_every_kind(style):
    rng = stream(0, "chunks", style)
    for kind in KINDS:
        for _ in range(60):
            g = sample_garment(rng, kind)
            phrases = noun_chunks(g, rng, style)
            assert of_form(phrases) and len(set(phrases)) == 3 and all(p == p.lower() for p in phrases)
            assert all(agrees(p, g) for p in phrases), (phrases, g)
            assert any(mentions(p) for p in phrases)
            if style == "fine":
                assert list(phrases) == sorted(phrases)
            else:
                assert all("kind" in mentions(p) for p in phrases), phrases


def test_equal_seeds_give_equal_phrases_and_others_differ():
    g = sample_garment(stream(0, "g"), "dress")
    assert noun_chunks(g, stream(1, "t")) == noun_chunks(g, stream(1, "t"))
    assert len({noun_chunks(g, stream(i, "t")) for i in range(20)}) > 10
    with pytest.raises(ValueError, match="fine, coarse"):
        noun_chunks(g, np.random.default_rng(0), "finest")


def test_the_released_files_have_the_form_that_is_imitated():
    root = Path(os.environ.get("UNIFASHION_DATA", ""), "annotations", "mgd")
    if not os.environ.get("UNIFASHION_DATA") or not root.exists():
        pytest.skip("UNIFASHION_DATA/annotations/mgd is absent")
    files = {name: json.loads((root / f"{name}.json").read_text()) for name in RELEASED}
    assert {name: len(f) for name, f in files.items()} == RELEASED
    assert all(of_form(p) for f in files.values() for p in f.values())
    assert all(p == sorted(p) for p in files["dresscode/fine_captions"].values())
    assert not files["dresscode/fine_captions"].keys() & files["dresscode/coarse_captions"].keys()
