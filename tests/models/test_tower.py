"The drawn world's image encoder: its stem, what it is asked by region, and what probes read off it."

import numpy as np
import pytest
import torch

from unifashion.ground.core import Foundations, stream
from unifashion.models.batches import ProductViews, moved
from unifashion.models.encoders import convolutional_stem, dual_encoder
from unifashion.models.foundations import train_tokenizer
from unifashion.models.probes import Shown, linear_probe, shown_as, tags_by_region
from unifashion.models.tower import Teacher, probe_tower, tags_loss
from unifashion.wardrobe.sampling import sample_garment

TINY = Foundations(patch=8, width=16, layers=2, heads=2, text_layers=1)


def garments(n=40):
    return [sample_garment(stream(0, "tower test", i)) for i in range(n)]


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_the_stem_makes_one_token_of_each_patch(patch):
    stem = convolutional_stem(patch, 32)
    assert stem(torch.randn(2, 3, 32, 48)).shape == (2, 32, 32 // patch, 48 // patch)


@pytest.mark.parametrize("patch", [2, 6, 12])
def test_the_stem_refuses_other_patches(patch):
    with pytest.raises(ValueError, match=f"patch {patch} is not 4, 8, 16"):
        convolutional_stem(patch, 32)


def test_each_region_is_asked_apart():
    own = garments()
    tags = tags_by_region(own, ("kind", "sleeve"))
    assert len(tags) % 2 == 0 and all(len(values) == len(own) for values in tags.values())
    for name in ("kind", "sleeve"):
        asked = [values for attribute, values in tags.items() if attribute.endswith(name)]
        for garment, answers in zip(own, zip(*asked)):
            assert [answer for answer in answers if answer is not None] == [getattr(garment, name)]


def test_what_has_no_answer_does_not_count():
    values = {"kind": ["a", "b", None, "a"], "color": [None, None, "x", "y"]}
    model = Teacher(dual_encoder(TINY, 32, 32, 80, context=16), values)
    seen = torch.randn(4, 16)
    products = torch.arange(4)
    own = [torch.nn.functional.cross_entropy(model.heads["kind"](seen[[0, 1, 3]]), torch.tensor([0, 1, 0])),
           torch.nn.functional.cross_entropy(model.heads["color"](seen[[2, 3]]), torch.tensor([0, 1]))]
    assert torch.isclose(tags_loss(model, seen, products), torch.stack(own).mean(), atol=1e-6)
    assert tags_loss(model, seen[:2], products[:2]).isfinite()  # nobody has a colour


def test_a_probe_reads_what_is_linear_and_nothing_else():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(600, 6))).float()
    labels = ["high" if v > 0 else "low" for v in x[:, 2]]
    chance = [str(v) for v in rng.integers(0, 2, 600)]
    assert linear_probe(x[:400], labels[:400], x[400:], labels[400:]) > 0.95
    assert abs(linear_probe(x[:400], chance[:400], x[400:], chance[400:]) - 0.5) < 0.12
    blank = [None if i % 2 else label for i, label in enumerate(labels)]
    assert linear_probe(x[:400], blank[:400], x[400:], blank[400:]) > 0.9


def test_a_probe_counts_an_unknown_answer_as_wrong():
    x = torch.eye(4)
    assert linear_probe(x[:2], ["a", "b"], x[:2], ["a", "c"]) == 0.5


def test_attributes_asked_by_region_are_averaged_over_pictures():
    torch.manual_seed(0)
    pictures = np.random.default_rng(1).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    first, second = ["a", "b"] * 3 + [None] * 6, [None] * 6 + ["c"] * 6
    labels = {"upper kind": first, "lower kind": second}
    model = dual_encoder(TINY, 32, 32, 80, context=16)
    told = probe_tower(model, Shown(pictures, labels, pictures, labels))
    alone = probe_tower(model, Shown(pictures, {"kind": first}, pictures, {"kind": first}))
    assert told == {"kind": pytest.approx((alone["kind"] * 6 + 6) / 12)}


def test_shown_names_what_the_garments_are():
    own = {str(i): garment for i, garment in enumerate(garments(6))}
    pictures = np.zeros((6, 8, 8, 3), np.uint8)
    shown = shown_as((pictures[:4], list("0123")), (pictures[4:], list("45")), own, ("kind",))
    assert shown.labels["kind"] == [own[i].kind for i in "0123"]
    assert shown.truth["kind"] == [own[i].kind for i in "45"]


def test_a_picture_is_moved_within_its_frame():
    picture = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, 2)
    torch.manual_seed(0)
    seen = [moved(picture, 1) for _ in range(60)]
    assert {m.shape for m in seen} == {(4, 4, 3)}
    assert any(np.array_equal(m, picture) for m in seen)
    inside = {tuple(m[1:3, 1:3, 0].ravel()) for m in seen}
    assert len(inside) == 9, "one pixel each way, and not at all"
    left = np.pad(picture, ((0, 0), (0, 1), (0, 0)), mode="edge")[:, 1:]
    assert any(np.array_equal(m, left) for m in seen), "edges are drawn out"


def test_each_picture_has_its_own_words():
    texts = ["red shirt", "a shirt in red", "navy coat"]
    tokenizer = train_tokenizer(texts * 2, 60)
    data = ProductViews(np.arange(3).reshape(3, 1), ["p", "p", "q"], texts, tokenizer, 8)
    torch.manual_seed(0)
    drawn = [data[0] for _ in range(30)]
    for example in drawn:
        row = int(example["image"][0])
        assert torch.equal(example["ids"], data.words[row].long())
    assert {int(example["image"][0]) for example in drawn} == {0, 1}
