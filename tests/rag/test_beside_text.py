"""Garments beside the text: silent where there are none, alone in each row, trained before the U-Net."""

import hashlib

import pytest
import torch
from tiny_models import edit_examples

from unifashion.ground.core import Rag
from unifashion.models.foundations import train_tokenizer
from unifashion.models.latents import sampler, start_noise
from unifashion.models.unet import PLACES, new_inpainter
from unifashion.rag.beside_text import new_beside_text
from unifashion.rag.inversion import spliced_prompts
from unifashion.rag.model import Edits, edited, posed, train_editor

TEXTS = [("a blue shirt", "short sleeves"), ("a red coat", "buttons", "wool"), ("striped",)]
TOKENIZER = train_tokenizer([" ".join(own) for own in TEXTS] * 4, 90)
BASE = new_inpainter(90, 4, (4, 3), (16, 16, 24), 32, 1)


@pytest.fixture
def editor():
    return new_beside_text(BASE, 24, seed=0).eval()


@pytest.fixture(scope="module")
def given():
    parts, found, tokens = edit_examples()
    return parts, ["x", "y", "z"], TEXTS, found, tokens, TOKENIZER


def digest_of(values):
    return hashlib.sha256(b"".join(own.detach().numpy().tobytes() for own in values)).hexdigest()


def test_without_garments_it_paints_as_the_foundation_does(editor):
    prompts = spliced_prompts(TOKENIZER, ["a blue shirt"], [0])
    seen, time = torch.randn(1, 9, 4, 3), torch.tensor([400])
    with torch.no_grad():
        context = editor.context(prompts, torch.zeros(0, 7, 24))
        told = editor.unet(seen, time, context).sample
        plain = BASE.unet(seen, time, BASE.text_encoder(prompts.ids).last_hidden_state).sample
    assert context.shape == (1, PLACES + 48, 32) and torch.allclose(told, plain, atol=1e-6)


def test_a_rows_garments_are_its_own(editor):
    prompts = spliced_prompts(TOKENIZER, ["a blue shirt", "striped", "a red coat"], [0] * 3)
    garments = torch.randn(4, 7, 24)
    with torch.no_grad():
        together = editor.context(prompts._replace(counts=(1, 0, 3)), garments)
        last = prompts._replace(ids=prompts.ids[2:], counts=(3,))
        alone = editor.context(last, garments[1:])
    assert torch.allclose(together[2:], alone, atol=1e-6)
    assert together[0, PLACES:PLACES + 16].any() and not together[0, PLACES + 16:].any()
    assert not together[1, PLACES:].any()


def test_more_garments_than_have_room_are_refused(editor):
    prompts = spliced_prompts(TOKENIZER, ["striped"], [0])._replace(counts=(4,))
    with pytest.raises(ValueError, match="4 garments of one prompt: there is room for 3"):
        editor.context(prompts, torch.randn(4, 7, 24))


def test_the_prompt_keeps_its_text(given):
    beside = Edits(*given, most=3, within=0)
    spliced = Edits(*given, most=3)
    for row in range(3):
        own = beside[row]
        assert not own["places"].any() and int(own["count"]) == 3
        assert int(spliced[row]["places"].sum()) == 48
        plain = spliced_prompts(TOKENIZER, [", ".join(TEXTS[row])], [0]).ids[0]
        assert torch.equal(own["ids"], plain)


def test_a_fixed_number_of_garments(given):
    fixed = Edits(*given, most=2, least=2, at_random=True)
    assert {int(fixed[row]["count"]) for row in (0, 1, 2) * 5} == {2}


def test_the_first_stage_leaves_the_unet_and_the_second_begins_there(editor, given, tmp_path):
    data = Edits(*given, at_random=True, within=0)
    frozen = [name for name, own in editor.named_parameters() if not own.requires_grad]
    kept = {name: own for name, own in editor.named_parameters() if name in frozen}
    before = digest_of(kept.values())
    learned = digest_of(own for own in editor.parameters() if own.requires_grad)
    train_editor(editor, data, Rag(steps=4, batch=2), tmp_path, 0, log=False, device="cpu")
    assert digest_of(kept.values()) == before
    assert digest_of(own for own in editor.parameters() if own.requires_grad) != learned
    batch, second = data.rows(range(3)), posed(editor).eval()
    noise = start_noise(range(3), (4, 4, 3))
    first, after = (edited(own, batch, noise, sampler("ddim", own.schedule), 2) for own in (editor, second))
    assert torch.allclose(first, after, atol=1e-4)
