"""Marked captions: marks state what the parser reads, true captions have no wrong word, text stays on the
page."""

import numpy as np
import pytest

from unifashion.evidence.caption_figures import (
    Example,
    annotation_page,
    caption_page,
    flow,
    marks,
    tally,
    truth_of,
)
from unifashion.ground.core import stream
from unifashion.ground.show import png_bytes, text_width
from unifashion.shop.captions import key_points, professional_caption, short_caption, title
from unifashion.shop.phrases import mentions
from unifashion.wardrobe.garments import KINDS, Garment
from unifashion.wardrobe.sampling import near_duplicate, sample_garment

SHIRT = Garment(
    kind="shirt",
    color="navy",
    second="white",
    pattern="stripes",
    sleeve="long",
    neckline="collar",
    length="regular",
    fit="slim",
    closure="buttons",
    pockets="chest",
    fabric="cotton",
    seed=3,
)


def captions(g, rng):
    return [short_caption(g, rng), key_points(g, rng), f"{title(g, rng)}. {professional_caption(g, rng)}"]


def judged(text, truth):
    return [(text[a:b], right) for a, b, right in marks(text, truth)]


def test_by_hand():
    assert judged("Navy & White striped Shirt, short sleeves (no pockets)!", truth_of(SHIRT)) == [
        ("Navy", True),
        ("White", True),
        ("striped", True),
        ("Shirt", True),
        ("short sleeves", False),
        ("no pockets", False),
    ]
    assert judged("navy and red", truth_of(SHIRT)) == [("navy", True), ("red", False)] and judged(
        "white and navy", truth_of(SHIRT)
    ) == [("white", False), ("navy", False)]
    assert (
        judged("washable, made in Italy", truth_of(SHIRT)) == []
        and tally("", truth_of(SHIRT)) == "nothing to judge"
    )
    assert (
        tally("navy shirt with lapels", truth_of(SHIRT)) == "2 right, 1 wrong"
        and tally("navy shirt", truth_of(SHIRT)) == "2 right"
    )


def test_a_reference_text_judges_what_it_states():
    truth = truth_of("A red dress with long sleeves.")
    assert judged("a blue dress, long-sleeved, with a hood", truth) == [
        ("blue", False),
        ("dress", True),
        ("long-sleeved", True),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_marks_are_what_the_parser_reads(kind):
    rng = stream(1, "marks", kind)
    for _ in range(12):
        g = sample_garment(rng, kind)
        near, truth = near_duplicate(g, rng), truth_of(g)
        for text in captions(g, rng):
            assert all(right for *_, right in marks(text, truth)), text
        for text in captions(near, rng):
            found, read = marks(text, truth), mentions(text)
            assert all(0 <= a < b <= len(text) for a, b, _ in found) and all(
                b <= a for (_, b, _), (a, _, _) in zip(found, found[1:])
            )
            assert any(not right for *_, right in found) == any(
                not values <= truth[name] for name, values in read.items()
            )
            assert bool(found) == bool(read)


def test_lines_stay_within_the_column():
    rng = stream(2, "flow")
    text, truth = captions(sample_garment(rng, "coat"), rng)[2], {}
    lines = flow(text, truth, 150)
    assert (
        " ".join(word for line in lines for _, word, *_ in line) == " ".join(text.split()) and len(lines) > 2
    )
    assert all(x + text_width(word) <= 150 for line in lines for x, word, *_ in line)
    assert flow("x" * 80, {}, 40)[0][0][1] == "x" * 80  # a word that no line can hold stands alone


def test_a_mark_goes_on_over_blanks_only():
    [line] = flow("it has short sleeves and a hood", truth_of(SHIRT), 900)
    assert [(word, right, on) for _, word, right, on in line if right is not None] == [
        ("short", False, True),
        ("sleeves", False, False),
        ("hood", False, False),
    ]


def test_a_page_repeats_itself_and_needs_an_example():
    picture = np.full((64, 48, 3), 200, np.uint8)
    e = Example(
        picture,
        truth_of(SHIRT),
        {"short": "navy shirt", "long": "A navy shirt with a hood. " * 6},
        "Navy & White striped shirt.",
        "Red coat.",
    )
    assert png_bytes(caption_page([e])) == png_bytes(caption_page([e]))
    one, two = (caption_page([e] * n, "$5").get_size_inches()[1] for n in (1, 2))
    assert two > 1.7 * one
    with pytest.raises(ValueError, match="no examples"):
        caption_page([])


def test_the_way_of_a_caption_judges_the_caption_alone():
    picture = np.full((40, 30, 3), 200, np.uint8)
    page = annotation_page(
        picture,
        truth_of(SHIRT),
        {"prompt": "red or green skirt?", "said": "has long sleeves", "caption": "a navy shirt"},
        "A title",
    )
    texts = [t.get_text() for t in page.axes[0].texts]
    assert {"PROMPT", "SAID", "CAPTION", "2 right"} <= set(texts) and not any(
        "wrong" in t for t in texts if t != "wrong"
    )
    left = annotation_page(picture, truth_of(SHIRT), {"caption": "a red skirt"}).axes[0]
    assert "2 wrong" in [t.get_text().split(", ")[-1] for t in left.texts] and left.images[
        0
    ].get_array().shape[:2] == (60, 45)
