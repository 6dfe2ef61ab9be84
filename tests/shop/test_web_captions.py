"Captions as the web writes them: true, of what is seen at a glance, in frames that no other text has."

import re
from dataclasses import replace

import numpy as np
import pytest

from unifashion.shop import captions as words
from unifashion.shop import phrases
from unifashion.shop.web_captions import FRAMES, TOLD, UNTOLD, web_caption
from unifashion.wardrobe.sampling import sample_garment


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(11)
    garments = [sample_garment(rng) for _ in range(1500)]
    return [(garment, web_caption(garment, rng)) for garment in garments]


def test_kind_and_colour_are_always_told(drawn):
    for garment, text in drawn:
        assert any(noun in text for noun in phrases.NOUNS[garment.kind])
        assert any(word in text for word in phrases.COLOR_WORDS[garment.color, garment.shade])


def test_every_statement_is_true(drawn):
    wrong = [(text, garment) for garment, text in drawn if not phrases.agrees(text, garment)]
    assert not wrong, (wrong[0], phrases.mentions(wrong[0][0]))


def test_each_told_attribute_is_told_of_some(drawn):
    told = {name for _, text in drawn for name in phrases.mentions(text)}
    assert set(TOLD) - {"emblem"} <= told and not told & set(UNTOLD)


def test_nothing_untold_changes_a_word(drawn):
    changed = 0
    for (garment, _), (other, _) in zip(drawn, drawn[1:]):
        twin = replace(garment, second=other.second, place=other.place, fit=other.fit)
        changed += twin != garment
        said = [web_caption(one, np.random.default_rng(5)) for one in (garment, twin)]
        assert said[0] == said[1]
    assert changed > 500


def test_its_frames_are_no_shop_text(drawn):
    shapes = [re.escape(frame).replace(re.escape("{}"), ".+") for frame in FRAMES]
    rng = np.random.default_rng(0)
    for garment, text in drawn[:200]:
        assert any(re.fullmatch(shape, text) for shape in shapes)
        for written in (words.title, words.short_caption, words.key_points, words.professional_caption):
            assert not any(re.fullmatch(shape, written(garment, rng)) for shape in shapes)
