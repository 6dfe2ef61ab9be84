"""Modification texts:
true of their pair over 10,000 triplets, read in full, varied, and judged by hand-made cases."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unifashion.ground.core import stream
from unifashion.shop.comparisons import (
    RELATIVE,
    SHARES,
    _comparisons,
    aspects,
    differences,
    lighter,
    overall,
    read_change,
    step,
    true_of,
)
from unifashion.shop.modifications import change_texts, statement, vary
from unifashion.shop.phrases import _found, _lexicon
from unifashion.wardrobe.garments import KINDS, PATTERNS, Garment, is_garment
from unifashion.wardrobe.sampling import sample_garment, single_changes

TEE = Garment(
    "t-shirt",
    "navy",
    second="white",
    pattern="stripes",
    sleeve="short",
    neckline="crew",
    length="regular",
    fit="regular",
    fabric="jersey",
)
RED = Garment(
    "t-shirt",
    "red",
    sleeve="long",
    neckline="v-neck",
    length="cropped",
    fit="loose",
    pockets="chest",
    fabric="linen",
)
STAR = replace(TEE, pattern="plain", emblem="star", place="chest centre")
FASHION_IQ = (("dress", "slip dress"), ("shirt", "polo shirt", "t-shirt"), ("tank top", "t-shirt", "sweater"))
GLUE = set(
    "is are looks it the has have with a an and instead of rather than color colored in".split()
)  # words that state nothing


def some_pair(rng, kinds):
    "Mostly varied a few times over, sometimes any two garments of a category."
    a = sample_garment(rng, kinds[int(rng.integers(len(kinds)))])
    if rng.random() < 0.2:
        while not differences(a, b := sample_garment(rng, kinds[int(rng.integers(len(kinds)))])):
            pass
        return a, b
    b = a
    while not differences(a, b) or rng.random() < 0.5:
        b = vary(b, rng)
    return a, b


@pytest.fixture(scope="module")
def triplets():
    rng, out = stream(0, "10,000 triplets"), []
    for i in range(10_000):
        a, b = some_pair(rng, FASHION_IQ[i % 3])
        out.append((a, b, change_texts(a, b, rng)))
    return out


def test_every_sentence_of_10_000_triplets_is_true(triplets):
    for a, b, two in triplets:
        assert len(two) == 2
        for text in two:
            assert true_of(text, a, b), (text, a, b)


def unread(text):
    "Words of a sentence that neither a comparison nor a phrase accounts for."
    words = re.sub(r"[.,]", " | ", _comparisons()[0].sub(" , ", text.lower())).split()
    read = {i for start, stop, _ in _found(words) for i in range(start, stop)}
    return [w for i, w in enumerate(words) if i not in read and w != "|" and w not in GLUE]


def test_the_reader_reads_every_word(triplets):
    left = Counter(w for _, _, two in triplets for text in two for w in unread(text))
    assert not left


def test_a_false_sentence_is_found_out(triplets):
    "The same sentence about another pair, or the wrong way round, is mostly false: the reader is no yes-man."
    swapped = np.mean([true_of(text, b, a) for a, b, two in triplets for text in two])
    others = np.mean(
        [all(true_of(text, *other[:2]) for text in two) for (_, _, two), other in zip(triplets, triplets[3:])]
    )
    assert swapped < 0.1 and others < 0.05


@pytest.mark.parametrize(
    "text, true",
    [
        ("has longer sleeves", True),
        ("has shorter sleeves", False),
        ("is red", True),
        ("is navy", False),
        ("is red instead of navy", True),
        ("is red instead of black", False),
        ("is red rather than red", False),
        ("has no print", True),
        ("is shorter and looser", True),
        ("is longer", False),
        ("has a v-neck collar and is more modest", False),
        ("has a chest pocket", True),
        ("is striped", False),
        ("has a lower neckline", True),
        ("is a different color", True),
        ("is a different shade", False),
        ("more colorful, cropped", True),
        ("Is Red, with a chest pocket.", True),
        ("is a red v-neck tee with long sleeves", True),
        ("the t-shirt is scarlet", True),
        ("the dress is scarlet", False),
        ("has no graphic", False),
        ("is nice", False),
        ("", False),
        ("is lighter", False),
        ("has added pockets", True),
    ],
)
def test_sentences_judged_by_hand(text, true):
    assert true_of(text, TEE, RED) == true


def test_emblems_and_second_colours():
    assert true_of("has a white star print on the chest", TEE, STAR) and not true_of(
        "has a white moon print", TEE, STAR
    )
    assert true_of("has a different graphic", STAR, replace(STAR, emblem="moon")) and not true_of(
        "no print", TEE, STAR
    )
    assert true_of("is less busy", TEE, STAR) and true_of(
        "has no logo", STAR, replace(STAR, emblem="", place="", second="")
    )
    assert not true_of("has yellow stripes", TEE, TEE) and true_of(
        "has yellow stripes", TEE, replace(TEE, second="yellow")
    )


def test_aspects_put_the_second_colour_where_it_shows():
    assert differences(TEE, replace(TEE, second="yellow")) == ["pattern"]
    assert (
        differences(STAR, replace(STAR, second="yellow"))
        == ["emblem"]
        == differences(STAR, replace(STAR, place="hip"))
    )
    assert differences(TEE, replace(TEE, seed=7)) == [] and set(differences(TEE, RED)) == {
        "color",
        "pattern",
        "sleeve",
        "neckline",
        "length",
        "fit",
        "pockets",
        "fabric",
    }
    assert aspects(TEE)["pattern"] == ("stripes", "white") and aspects(RED)["pattern"] == ("plain", "")


def test_scales_compare_only_what_lies_on_one():
    assert step(TEE, RED, "sleeve") == 2 and step(RED, TEE, "sleeve") == -2 and step(TEE, RED, "length") == -1
    dress, jeans = (sample_garment(stream(0, k), k) for k in ("dress", "jeans"))
    assert step(dress, jeans, "length") == step(dress, TEE, "length") == 0
    assert (
        step(replace(dress, length="mini"), replace(dress, kind="slip dress", length="maxi"), "length") == 3
    )
    assert {p for p, n in PATTERNS.items() if n == 2} == set(SHARES)


def test_lightness_by_hand():
    white, black = replace(RED, color="white"), replace(RED, color="black")
    assert (
        overall(white)[0] == pytest.approx(0.299 * 246 + 0.587 * 246 + 0.114 * 244)
        and lighter(black, white)
        and not lighter(white, black)
    )
    assert overall(TEE)[0] == pytest.approx(
        0.61 * (0.299 * 38 + 0.587 * 50 + 0.114 * 94) + 0.39 * overall(white)[0]
    )
    assert not lighter(TEE, RED) and not lighter(RED, TEE)  # the whole and the base colour disagree


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_change_can_be_told(kind):
    rng = stream(0, "single", kind)
    for _ in range(4):
        g = sample_garment(rng, kind)
        for b in (b for found in single_changes(g).values() for b in found):
            texts = change_texts(g, b, rng)
            assert all(true_of(t, g, b) for t in texts), (texts, g, b)
            told = {x for t in texts for name in read_change(t)[0] for x in RELATIVE[name][0]}
            told |= {name for t in texts for name in read_change(t)[1]}
            fields = (
                set(differences(g, b)) | {"second"} | ({"shade"} if "color" in differences(g, b) else set())
            )
            assert told & (fields | {"place"}), (texts, differences(g, b))


def test_wording_is_varied_and_both_kinds_occur(triplets):
    sentences = [text for _, _, two in triplets for text in two]
    assert len(set(sentences)) > 0.5 * len(sentences) and Counter(sentences).most_common(1)[0][
        1
    ] < 0.01 * len(sentences)
    used = Counter(name for text in sentences for name in read_change(text)[0])
    compared = np.mean([any(read_change(text)[0] for text in two) for _, _, two in triplets])
    named = np.mean([any(read_change(text)[1] for text in two) for _, _, two in triplets])
    assert 0.3 < compared < 0.8 and named > 0.7
    assert {name for name in used} >= set(RELATIVE) - {
        "no wrap",
        "no drawstring",
        "no hood",
        "no turn-ups",
        "no rips",
        "no side stripe",
        "same waistband",
        "warmer",
        "thinner",
    }  # rare, or other kinds' affairs
    assert np.mean([len(text.split()) for text in sentences]) == pytest.approx(5.7, abs=1.5)
    assert (
        np.mean([text[0].isupper() for text in sentences]) > 0.05
        and max(len(text.split()) for text in sentences) <= 40
    )


def test_most_differences_are_told_and_some_are_left_out(triplets):
    few = [(a, b, two) for a, b, two in triplets if 1 <= len(differences(a, b)) <= 3]

    def told(a, b, two):
        facts = {x for t in two for name in read_change(t)[0] for x in RELATIVE[name][0]}
        return (
            facts
            | {name for t in two for name in read_change(t)[1]}
            | ({"pattern"} if any("no print" in t for t in two) else set())
        )

    share = np.mean([set(differences(*row[:2])) <= told(*row) for row in few])
    assert 0.75 < share < 1


def test_equal_seeds_equal_texts_and_equal_garments_are_refused():
    assert change_texts(TEE, RED, stream(1, "t")) == change_texts(TEE, RED, stream(1, "t"))
    assert len({change_texts(TEE, RED, stream(i, "t")) for i in range(30)}) > 25
    with pytest.raises(ValueError, match="do not differ"):
        change_texts(TEE, replace(TEE, seed=9), stream(1, "t"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_variation_is_valid_and_close(kind):
    rng, seen = stream(0, "vary", kind), set()
    for _ in range(60):
        g = sample_garment(rng, kind)
        other = vary(g, rng)
        assert is_garment(other) and other.kind == kind and other.seed != g.seed
        assert 1 <= len(differences(g, other)) <= 3, (g, other)
        seen |= set(differences(g, other))
    assert {"color", "length", "fit"} <= seen
    if kind == "t-shirt":
        assert {"pattern", "emblem", "sleeve", "neckline"} <= seen


def test_no_comparison_hides_inside_a_phrase():
    "The reader takes comparisons out first: none of them may be part of what a phrase says."
    wordings = {
        tuple(w.split()): name for name, (_, words, _) in RELATIVE.items() for form in words for w in form
    }
    for phrase in _lexicon():
        inside = [
            w
            for w in wordings
            if w != phrase and any(phrase[i : i + len(w)] == w for i in range(len(phrase)))
        ]
        assert not inside, (phrase, inside)
    assert statement(TEE, RED, "sleeve", stream(0, "s"))
