"""What learns in front of an editor: gates by hand, fusions that begin as means, bad ones, logos."""

import numpy as np
import pytest
import torch

from unifashion.ground.core import Rag
from unifashion.models.autoencoder import PatchAutoencoder
from unifashion.models.checkpoints import seeded
from unifashion.models.foundations import train_tokenizer
from unifashion.models.latents import sampler, start_noise
from unifashion.models.unet import new_inpainter
from unifashion.rag.inversion import spliced_prompts
from unifashion.rag.learned import DroppedEdits, Fusion, Gate, SpoiltEdits, taught_editor, teach, unfrozen
from unifashion.rag.logos import ARMS, WITH_HINT, PlacesInversion, logo_editor, logo_examples, logos_of
from unifashion.rag.model import Edits, edited, new_editor, posed, prompts_of

TOKENIZER = train_tokenizer(["a blue striped shirt with short sleeves"] * 3, 90)
NAMES = list("abcd")
TOKENS = {name: np.full((3, 8), k, np.float32) for k, name in enumerate(NAMES)}
FOUND = [["a", "b", "c"], ["b", "c", "a"]]


@pytest.fixture(scope="module")
def editor():
    base = new_inpainter(TOKENIZER.get_vocab_size(), 4, (4, 3), (16, 16, 24), 48, 1)
    return posed(new_editor(base, 8, 0)).eval()


def parts(n=2):
    rng = np.random.default_rng(0)
    sizes = {"latents": 4, "masked": 4, "mask": 1, "pose": 18}
    return {name: rng.normal(size=(n, own, 4, 3)).astype(np.float32) for name, own in sizes.items()}


def edits(kind=Edits, times=1, **named):
    n = 2 * times
    return kind(parts(n), ["p", "q"] * times, [("a blue shirt",)] * n, FOUND * times, TOKENS, TOKENIZER,
                **named)


def test_a_closed_gate_lets_nothing_in_and_an_open_one_everything():
    gate = Gate(8)
    texts, pseudo = torch.randn(2, 8), torch.randn(3, 16, 8)
    for bias, share in ((-30., 0.), (30., 1.)):
        torch.nn.init.constant_(gate.net[-1].bias, bias)
        told, counts = gate(texts, pseudo, (1, 2))
        assert torch.allclose(told, share * pseudo, atol=1e-6) and counts == (1, 2)


def test_a_gate_hears_the_text_of_its_own_prompt():
    gate = Gate(8)
    torch.nn.init.normal_(gate.net[-1].weight)
    texts, pseudo = torch.randn(2, 8), torch.randn(1, 16, 8).expand(3, -1, -1)
    first, second, third = gate.weights(texts, pseudo, (1, 2)).tolist()
    assert first != pytest.approx(second) and second == pytest.approx(third)


def test_a_part_hears_the_text_alone_as_it_ends(editor):
    taught, heard = taught_editor(editor, Gate, 0), []
    taught.part.register_forward_pre_hook(lambda part, given: heard.append(given[0]))
    texts = [("a blue shirt",), ("striped",)]
    data = Edits(parts(), ["p", "q"], texts, FOUND, TOKENS, TOKENIZER, most=3)
    with torch.no_grad():
        taught.told(data.rows([0, 1]))
        states = editor.silence(spliced_prompts(TOKENIZER, ["a blue shirt", "striped"], [0, 0]).ids)
    ends = [len(TOKENIZER.encode(text).ids) - 2 for text, in texts]  # before the end's own piece
    assert torch.allclose(heard[0], torch.stack([states[0, ends[0]], states[1, ends[1]]]), atol=1e-5)


def test_a_fusion_begins_as_the_mean_and_does_not_mind_the_order():
    with seeded(0, "fusion"):
        fusion = Fusion(12)
    pseudo = torch.randn(3, 16, 12)
    told, counts = fusion(None, pseudo, (0, 3))
    assert counts == (0, 1) and torch.allclose(told[0], pseudo.mean(0), atol=1e-6)
    torch.nn.init.normal_(fusion.net[-1].weight)
    turned = fusion(None, pseudo.flip(0), (0, 3))[0]
    assert torch.allclose(fusion(None, pseudo, (0, 3))[0], turned, atol=1e-5)
    assert not torch.allclose(turned[0], pseudo.mean(0), atol=1e-3)


@pytest.mark.parametrize("part, within", [(Gate, 3), (Fusion, 1)])
def test_a_taught_editor_is_asked_like_an_editor(part, within, editor):
    taught = taught_editor(editor, part, 0)
    data = edits(most=3, within=within)
    batch = data.rows([0, 1])
    assert taught.told(batch).shape == (2, 77, 48)
    way = sampler("dpm++", editor.schedule)
    told = edited(taught, batch, start_noise([0, 1], (4, 4, 3)), way, 2)
    assert told.isfinite().all()


def test_an_open_gate_changes_nothing(editor):
    taught = taught_editor(editor, Gate, 0)
    torch.nn.init.constant_(taught.part.net[-1].bias, 30.)
    batch = edits(most=3).rows([0, 1])
    with torch.no_grad():
        assert torch.allclose(taught.told(batch), editor.told(batch), atol=1e-5)


def test_only_the_part_learns_and_an_unfrozen_editor_learns_as_a_whole(editor, tmp_path):
    data = edits(times=6, most=3, at_random=True, least=1)
    brief = Rag(steps=3, batch=12, checkpoint_every=0)
    for model, moved in ((taught_editor(editor, Gate, 0), {"part"}),
                         (unfrozen(editor), {"unet", "inversion"})):
        before = {name: own.clone() for name, own in model.named_parameters()}
        teach(model, data, brief, tmp_path / next(iter(moved)), 0, log=False, device="cpu")
        changed = {name for name, own in model.named_parameters() if not torch.equal(own, before[name])}
        assert {name.split(".")[0] for name in changed} == moved


def test_bad_ones_are_of_those_that_may_stand_in():
    torch.manual_seed(0)
    data = edits(SpoiltEdits, most=3, others=[["d"], NAMES])
    seen = set()
    for _ in range(30):
        seen |= {tuple(row) for row in data[0]["garments"][:, 0, 0].reshape(-1, 3).int().tolist()}
    assert (0, 1, 2) in seen and len(seen) > 3
    assert all(own in (k, 3) for row in seen for k, own in enumerate(row))  # the good one, or d
    assert len(prompts_of(data.rows([0, 1]))[1]) == 6


def test_any_garment_may_be_left_out():
    torch.manual_seed(0)
    data = edits(DroppedEdits, most=3, at_random=True)
    shown = set()
    for _ in range(80):
        own = data[0]
        shown.add(tuple(sorted(own["garments"][:int(own["count"]), 0, 0].int().tolist())))
        assert int(own["places"].sum()) == 16 * int(own["count"])
    assert shown == {(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)}


def test_places_keep_their_place():
    with seeded(0, "places"):
        places = PlacesInversion(6, 5, (8, 8))
    tokens = torch.zeros(1, 65, 6)
    plain = places(tokens)
    tokens[0, 64] = 3 * torch.randn(6)  # the last place, below on the right
    moved = (places(tokens) - plain).abs().sum(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [15]


def test_only_the_arm_with_a_hint_is_shown_the_garments_latents():
    with seeded(0, "vae"):
        vae = PatchAutoencoder(4, (8, 8, 8), 1)
    own = logos_of(2, "test", (32, 24), vae)
    shown = {arm: logo_examples(arm, own, np.zeros((2, 3, 8)), TOKENIZER)[1] for arm in ARMS}
    assert [len(own["pose"]) for own in shown.values()] == [18, 18, 22]
    assert torch.equal(shown[WITH_HINT]["pose"][18:], torch.from_numpy(own.parts["latents"][1]))
    assert [told for told, in own.phrases] == [f"{garment.color} {garment.kind}" for garment in own.garments]
    base = new_inpainter(TOKENIZER.get_vocab_size(), 4, (4, 3), (16, 16, 24), 48, 1)
    with pytest.raises(ValueError, match="arm: 'of nothing' is none of"):
        logo_editor("of nothing", base, 8, (1, 2), 0)
