"""What pseudo-tokens say: probes between their limits, neighbours counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unifashion.evidence.inversion_figures import spoken_figure, words_by_step
from unifashion.evidence.inversion_study import most_common, plane, probed, pseudo_of, spoken, together
from unifashion.evidence.inversion_study import what_was_shown
from unifashion.ground.core import stream
from unifashion.models.checkpoints import seeded
from unifashion.models.foundations import train_tokenizer
from unifashion.rag.inversion import Inversion
from unifashion.wardrobe.sampling import sample_garment

KINDS = ("t-shirt", "dress") * 30
GARMENTS = [sample_garment(stream(2, "study", str(row)), kind) for row, kind in enumerate(KINDS)]
HALVES = GARMENTS[:30], GARMENTS[30:]


def test_a_probe_reads_what_is_there_and_no_more():
    rng = np.random.default_rng(0)
    says = torch.tensor([[1.0 if kind == "dress" else -1.0] for kind in KINDS])
    read = probed(says[:30], says[30:], HALVES, ("kind", "color"))
    assert read["kind"] == 1 and read["color"] < 0.5
    noise = torch.from_numpy(rng.normal(size=(60, 16, 3))).float()
    assert probed(noise[:30], noise[30:], HALVES, ("kind",))["kind"] < 0.8


def test_the_commonest_value_by_hand():
    own = [SimpleNamespace(kind=kind, color=color) for kind, color in zip("aabbb", "xxxyz")]
    asked = [SimpleNamespace(kind=kind, color=color) for kind, color in zip("abba", "xyyy")]
    assert most_common((own, asked), ("kind", "color")) == {"kind": 0.5, "color": 0.25}


def test_an_attribute_that_garments_lack_is_not_asked():
    skirts = [sample_garment(stream(3, "study", str(row)), "skirt") for row in range(4)]
    shown = torch.randn(34, 2)
    mixed = HALVES[0] + skirts, HALVES[1] + skirts
    both = probed(shown, shown, mixed, ("sleeve",)), probed(shown[:30], shown[:30], HALVES, ("sleeve",))
    assert both[0] == both[1]


def test_neighbours_by_hand():
    twins = [GARMENTS[0], GARMENTS[0], GARMENTS[1], GARMENTS[1]]
    pseudo = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])[:, None]
    found = together(pseudo, twins)
    assert found["nearest is alike"] == 1 and found["by lot"] == pytest.approx(1 / 3)
    assert found["alike"] > 0.9 and found["not alike"] < -0.9
    apart = together(pseudo[[0, 2, 1, 3]], twins)
    assert apart["nearest is alike"] == 0


def test_the_plane_keeps_distances_of_flat_points():
    flat = torch.randn(9, 2) @ torch.randn(2, 12)
    shown = plane(flat.reshape(9, 3, 4))
    distance = lambda points: np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert np.allclose(distance(shown), distance(flat.numpy()), atol=1e-4)


def test_tokens_of_a_garment_do_not_depend_on_the_others():
    with seeded(0, "study"):
        editor = SimpleNamespace(inversion=Inversion(32, 8, heads=2))
    tokens = np.random.default_rng(1).normal(size=(5, 4, 32))
    assert torch.allclose(pseudo_of(editor, tokens, batch=2)[3:4], pseudo_of(editor, tokens[3:4]), atol=1e-5)
    limits = what_was_shown((tokens[:3], tokens[3:]), (GARMENTS[:3], GARMENTS[:2]))
    assert set(limits) == {"class token", "most common"}


class Said(torch.nn.Module):
    "An inversion that says given words, whatever it is shown."
    def __init__(self, told):
        super().__init__()
        self.told = torch.nn.Parameter(told)

    def forward(self, tokens): return self.told


def test_a_garment_is_named_when_a_token_is_nearest_to_a_word_of_it():
    words = train_tokenizer(["red blue dress shirt t-shirt"] * 9, 60)
    table = torch.eye(words.get_vocab_size())
    said = [["red", "dress"] * 8, ["shirt"] * 16]
    told = torch.stack([table[[words.token_to_id(word) for word in own]] for own in said])
    embedding = SimpleNamespace(token_embedding=SimpleNamespace(weight=table))
    editor = SimpleNamespace(inversion=Said(told), text_encoder=SimpleNamespace(embeddings=embedding))
    own = [SimpleNamespace(kind="dress", color="red"), SimpleNamespace(kind="t-shirt", color="blue")]
    heard = spoken(editor, np.zeros((2, 1, 3)), own, words)
    assert heard.pop("words") == said
    assert heard == {"nearness": 1, "kind": 1, "color": 0.5}  # a t-shirt is named by 'shirt', too


def test_words_of_one_garment_at_some_steps():
    rows = [{"step": 50 * k, "words": [["of"] * 16, ["red"] * k + ["of"] * (16 - k)]} for k in range(10)]
    told = words_by_step(rows, garment=1, n=4, most=1)
    assert [row["step"] for row in told] == [0, 150, 300, 450]
    assert told[-1]["words"] == "red (9)" and told[0]["words"] == "of (16)"
    assert words_by_step([]) == []


@pytest.mark.parametrize("alone, lines", [(0, 3), (100, 4)])
def test_the_curve_of_words_says_where_stage_1_begins(alone, lines):
    rows = [{"step": 50 * k, "kind": 0.1 * k, "color": 0.1, "nearness": 0.3} for k in range(5)]
    axes = spoken_figure(rows, "made up", alone).axes[0]
    drawn = axes.get_lines()
    assert len(drawn) == lines and axes.get_xlabel().isprintable()
    if alone:
        assert drawn[-1].get_label() == "stage 1 begins" and set(drawn[-1].get_xdata()) == {100}


def test_what_is_not_recalled_is_drawn_from_where_stage_0_ends():
    rows = [{"step": 50 * k, "kind": 0.1 * k, "color": 0.2 * k, "nearness": 0.3} for k in range(5)]
    lost = [{"step": 150, "kind": 0., "color": 0.1, "nearness": 0.3}]
    lines = spoken_figure(rows, "made up", 100, lost).axes[0].get_lines()
    lines = {line.get_label(): line for line in lines}
    dashed = lines["color, stage 0 not recalled"]
    assert dashed.get_xdata().tolist() == [100, 150] and dashed.get_ydata() == pytest.approx([40, 10])
    assert dashed.get_color() == lines["color named, %"].get_color()
