"Captions are true, varied, short enough, and identify; the reader reads what the tables say."

import re
from dataclasses import replace

import numpy as np
import pytest

from unifashion.shop import captions as words
from unifashion.shop import phrases
from unifashion.wardrobe.colours import COLORS
from unifashion.wardrobe.garments import KINDS, Garment
from unifashion.wardrobe.sampling import near_duplicate, sample_garment

TEE = Garment(
    "t-shirt",
    "navy",
    second="white",
    pattern="stripes",
    sleeve="short",
    neckline="crew",
    length="regular",
    fit="loose",
    fabric="jersey",
)
STYLES = {
    "title": words.title,
    "short": words.short_caption,
    "key points": words.key_points,
    "professional": words.professional_caption,
    "text": lambda g, rng: (name := words.title(g, rng)) + ". " + words.professional_caption(g, rng, name),
}


@pytest.fixture(scope="module")
def garments():
    rng = np.random.default_rng(7)
    return [sample_garment(rng) for _ in range(2000)]


@pytest.fixture(scope="module")
def captions(garments):
    rng = np.random.default_rng(8)
    return {style: [write(g, rng) for g in garments] for style, write in STYLES.items()}


def test_every_statement_is_true(garments, captions):
    for style, texts in captions.items():
        wrong = [(t, g) for t, g in zip(texts, garments) if not phrases.agrees(t, g)]
        assert not wrong, (style, wrong[0], phrases.mentions(wrong[0][0]))


def test_a_garment_with_an_emblem_is_not_called_plain(garments, captions):
    for style, texts in captions.items():
        assert not [t for t, g in zip(texts, garments) if g.emblem and "pattern" in phrases.mentions(t)], (
            style
        )


def test_true_for_every_seed():
    g = replace(TEE, pattern="plain", emblem="letter A", place="left chest", trim="contrast trim", pockets="")
    for seed in range(200):
        for style, write in STYLES.items():
            text = write(g, np.random.default_rng(seed))
            assert phrases.agrees(text, g), text


def test_every_caption_names_kind_and_color(captions):
    for style, texts in captions.items():
        assert all({"kind", "color"} <= set(phrases.mentions(t)) for t in texts), style


def test_a_text_speaks_of_much(captions):
    said = [len(set(phrases.mentions(t)) - {"kind", "color", "shade"}) for t in captions["text"]]
    assert np.mean(said) > 5 and np.quantile(said, 0.02) >= 2


def test_lengths(captions):
    mean = {style: np.mean([len(t.split()) for t in texts]) for style, texts in captions.items()}
    assert all(3 <= len(t.split()) <= 7 and t == t.lower() for t in captions["short"])
    assert 16 <= mean["text"] <= 30 and 15 <= mean["key points"] <= 30 and 3 < mean["title"] < 7


def test_forms_differ(garments):
    rng = np.random.default_rng(0)
    for style, write in STYLES.items():
        assert len({write(TEE, rng) for _ in range(100)}) > 60, style


def test_a_text_identifies(garments, captions):
    shelf = {k: [g for g in garments if g.kind == k][:101] for k in KINDS}
    pairs = [(t, g) for t, g in zip(captions["text"], garments)][:400]
    shared = 0
    for text, g in pairs:
        said = phrases.mentions(text).items()
        shared += any(all(v == {getattr(o, a)} for a, v in said) for o in shelf[g.kind] if o is not g)
    shared /= len(pairs)
    assert shared < 0.1


def test_keep_tells_siblings_apart(garments):
    rng = np.random.default_rng(3)
    for g in garments[:300]:
        sibling = near_duplicate(g, rng)
        differs = tuple(
            a
            for a in ("color", "shade", "second", "place", *words.HAD)
            if getattr(g, a) != getattr(sibling, a)
        )
        name = words.title(g, rng, differs)
        text = name + ". " + words.professional_caption(g, rng, name, differs)
        assert phrases.agrees(text, g) and not phrases.agrees(text, sibling), (differs, text)


def test_same_seed_same_caption():
    for write in STYLES.values():
        assert write(TEE, np.random.default_rng(5)) == write(TEE, np.random.default_rng(5))


def test_generic_caption_says_type_and_color_alone(captions):
    rng = np.random.default_rng(0)
    for kind in KINDS:
        g = sample_garment(rng, kind)
        text = words.generic_caption(g)
        assert (
            text == words.generic_caption(replace(g, seed=1, fit="", trim=""))
            and kind in text
            and g.color in text
        )
    assert not any("picture" in t for texts in captions.values() for t in texts)


def test_normalise():
    assert words.normalise(' A  Tee!\n(Navy; "blue"): #1 * x~') == "a tee navy blue 1 x"
    assert words.normalise("v-neck, it's 50%") == "v-neck, it's 50%"
    assert len(words.normalise("w " * 99).split()) == 50 and words.normalise("a b c", 2) == "a b"
    assert len(words.normalise("w " * 99, None).split()) == 99


def test_world_corpus():
    texts = words.world_corpus(800, seed=1)
    assert len(texts) == 800 and texts == words.world_corpus(800, seed=1) != words.world_corpus(800, seed=2)
    assert len({w for t in words.world_corpus(3000) for w in re.findall(r"\w+", t)}) <= 700


def test_reader_longest_phrase_wins():
    read = phrases.mentions
    assert read("Cable knit cardigan with a navy collar") == {
        "fabric": {"cable knit"},
        "kind": {"sweater"},
        "closure": {"buttons"},
        "second": {"navy"},
        "trim": {"contrast collar"},
    }
    assert read("Navy & White Striped Tee")["second"] == {"white"} and read("Navy & White Striped Tee")[
        "color"
    ] == {"navy"}
    assert read("a navy tee with white stripes")["color"] == {"navy"}
    assert read("short sleeves. Short sleeves and long sleeves")["sleeve"] == {"short", "long"}
    assert read("") == {} and read("tonal stitching") == {}


def test_reader_stops_at_full_stops():
    assert phrases.mentions("dress in cap. Sleeves") == {"kind": {"dress"}}


def test_no_phrase_means_two_things():
    "A phrase states one value of an attribute, whichever kind it is used for."
    book = phrases._lexicon()
    for attribute, table in phrases.PHRASES.items():
        for key, forms in table.items():
            for text in (t for form in forms for t in form if "{" not in t):
                facts = book[tuple(text.lower().split())]
                value = facts.get(attribute)
                known = key == value or key.startswith(f"{value} ") or value == ""
                assert set(facts) == {attribute} and known, (key, text, facts)


def test_every_value_has_words():
    assert set(phrases.COLOR_WORDS) == {(c, s) for c, shades in COLORS.items() for s in shades}
    for kind, spec in KINDS.items():
        assert kind in phrases.NOUNS
        for a in phrases.PHRASES:
            for v in spec.allowed[a]:
                assert not v or any(phrases.entry(a, v, kind)) or (kind, v) == ("hoodie", "hood"), (
                    kind,
                    a,
                    v,
                )


def test_agrees_is_false_for_contradictions():
    assert phrases.agrees("striped navy tee", TEE) and not phrases.agrees(
        "striped tee with long sleeves and short sleeves", TEE
    )
    assert not phrases.agrees("navy dress", TEE) and phrases.agrees("fully lined", TEE)
