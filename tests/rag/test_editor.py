"""The editor: a second stage that begins as the first ended, parts that stay frozen, samples on their own."""

import hashlib

import numpy as np
import pytest
import torch
from tiny_models import edit_examples

from unifashion.ground.core import Rag
from unifashion.models.foundations import train_tokenizer
from unifashion.models.latents import sampler, start_noise
from unifashion.models.unet import new_inpainter
from unifashion.rag.model import Edits, Recalled, edited, editing_loss, new_editor, pose_channels, posed
from unifashion.rag.model import prompts_of, train_editor

TEXTS = [("a blue shirt", "short sleeves"), ("a red coat", "buttons", "wool"), ("striped",)]
TOKENIZER = train_tokenizer([" ".join(own) for own in TEXTS] * 4, 90)


@pytest.fixture
def editor():
    return new_editor(new_inpainter(90, 4, (4, 3), (16, 16, 24), 32, 1), 24, seed=0)


@pytest.fixture(scope="module")
def data():
    parts, found, tokens = edit_examples()
    return Edits(parts, ["x", "y", "z"], TEXTS, found, tokens, TOKENIZER)


def batch_of(data, rows=(0, 1, 2)):
    return torch.utils.data.default_collate([data[row] for row in rows])


def digest_of(module):
    whole = b"".join(own.detach().numpy().tobytes() for own in module.state_dict().values())
    return hashlib.sha256(whole).hexdigest()


def test_the_second_stage_begins_where_the_first_ended(editor, data):
    torch.manual_seed(0)
    batch, second = batch_of(data), posed(editor).eval()
    noise = start_noise(range(3), (4, 4, 3))
    before = edited(editor, batch, noise, sampler("ddim", editor.schedule), 3)
    after = edited(second, batch, noise, sampler("ddim", editor.schedule), 3)
    assert torch.allclose(before, after, atol=1e-4)
    assert second.posed and not editor.posed and second.unet.config.in_channels == 27


def test_stage_one_trains_the_inversion_alone_and_stage_two_the_painter_too(editor, data, tmp_path):
    settings = Rag(steps=5, batch=2, checkpoint_every=5)
    text, unet, words = (digest_of(own) for own in (editor.text_encoder, editor.unet, editor.inversion))
    train_editor(editor, data, settings, tmp_path / "one", 0, log=False, device="cpu")
    assert digest_of(editor.text_encoder) == text and digest_of(editor.unet) == unet
    assert digest_of(editor.inversion) != words
    second = posed(editor)
    before, words = digest_of(second.unet), digest_of(second.inversion)
    history = train_editor(second, data, settings, tmp_path / "two", 0, log=False, device="cpu")
    assert len(history["loss"]) == 3  # 0.6 as many
    assert digest_of(second.text_encoder) == text
    assert digest_of(second.unet) != before and digest_of(second.inversion) != words


def test_the_pose_is_seen_in_the_second_stage_alone(editor, data):
    batch = batch_of(data)
    assert torch.equal(editor.beside(batch), torch.cat([batch["mask"], batch["masked"]], 1))
    second = posed(editor)
    torch.nn.init.normal_(second.unet.conv_in.weight)
    noise, way = start_noise(range(3), (4, 4, 3)), sampler("ddim", editor.schedule)
    turned = batch | {"pose": batch["pose"].flip(0)}
    assert not torch.allclose(edited(second, batch, noise, way, 2), edited(second, turned, noise, way, 2))


def test_a_picture_does_not_depend_on_its_batch(editor, data):
    noise, way = start_noise(range(3), (4, 4, 3)), sampler("dpm++", editor.schedule)
    together = edited(editor, batch_of(data), noise, way, 3)
    alone = edited(editor, batch_of(data, [1]), noise[1:2], sampler("dpm++", editor.schedule), 3)
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_numbers_of_garments_and_phrases_are_drawn(data):
    data = Edits(data.parts, data.ids, data.phrases, data.found, data.tokens, TOKENIZER, 3, at_random=True)
    torch.manual_seed(0)
    drawn = [data[1] for _ in range(60)]
    assert {int(own["count"]) for own in drawn} == {0, 1, 2, 3}
    lengths = {int((own["ids"] != own["ids"][-1]).sum()) for own in drawn}
    assert len(lengths) == 3  # one, two or three phrases
    assert all(int(own["places"].sum()) == 16 * int(own["count"]) for own in drawn)


@pytest.mark.parametrize("share, expected", [(0., {0}), (1., {1}), (0.5, {0, 1})])
def test_lessons_of_an_earlier_stage_come_back_as_often_as_asked(share, expected, data):
    later = data
    worn = [[names[0]] for names in later.found]
    earlier = Edits(later.parts, later.ids, [()] * 3, worn, later.tokens, TOKENIZER, 1)
    mixed = Recalled(later, earlier, share)
    torch.manual_seed(0)
    rows = [mixed[1] for _ in range(200)]
    seen = [int(row["count"] == 1) for row in rows]
    assert len(mixed) == 3 and set(seen) == expected
    assert abs(np.mean(seen) - share) < 0.12
    for row in (row for row, recalled in zip(rows, seen) if recalled):
        assert np.allclose(row["garments"][0], later.tokens[worn[1][0]]) and not row["garments"][1:].any()
        assert torch.equal(row["ids"], earlier[1]["ids"])
    batch = torch.utils.data.default_collate([*rows[:4], later[0]])  # one shape, of whichever stage
    prompts, garments = prompts_of(batch)
    assert len(garments) == sum(prompts.counts) == int(prompts.places.sum()) / 16
    with pytest.raises(ValueError, match="about the same persons"):
        Recalled(later, Edits(later.parts, ["x", "y", "w"], [()] * 3, worn, later.tokens, TOKENIZER, 1), 0.5)


def test_every_prompt_may_have_its_own_number_of_garments(editor, data):
    given = data.parts, data.ids, data.phrases, data.found, data.tokens, TOKENIZER
    mixed = Edits(*given, counts=[0, 2, 3])
    assert [int(mixed[row]["places"].sum()) for row in range(3)] == [0, 32, 48]
    two, editor = Edits(*given, most=2), editor.eval()
    assert torch.allclose(editor.told(batch_of(mixed))[1], editor.told(batch_of(two))[1], atol=1e-5)
    one = Edits(*given, within=1)
    assert int(one[0]["places"].sum()) == 16 and int(one[0]["count"]) == 3


def test_without_garments_a_prompt_is_its_text(editor, data):
    none = Edits(data.parts, data.ids, data.phrases, [[]] * 3, data.tokens, TOKENIZER, most=0)
    batch = batch_of(none)
    assert batch["garments"].shape == (3, 0, 7, 24)
    assert torch.isfinite(editing_loss(editor, batch))


def test_too_few_garments_are_named(data):
    with pytest.raises(ValueError, match="y: 2 garments were found, 3 are wanted"):
        found = [list("abc"), list("bc"), list("abc")]
        Edits(data.parts, data.ids, data.phrases, found, data.tokens, TOKENIZER)


def test_a_hill_for_every_keypoint_that_is_seen():
    points = np.zeros((1, 18, 3))
    points[0, 4] = [0.5, 0.25, 1]
    maps = pose_channels(points, 16, 12)
    assert maps.shape == (1, 18, 16, 12) and np.flatnonzero(maps.any((2, 3))).tolist() == [4]
    rows, columns = np.nonzero(maps[0, 4] > 0.9)
    assert set(rows) <= {3, 4} and set(columns) <= {5, 6}


def test_a_foundation_with_another_order_is_refused():
    base = new_inpainter(90, 4, (4, 3), (16, 16, 24), 32, 1)
    base.mask_first = False
    with pytest.raises(ValueError, match="the mask comes first"):
        new_editor(base, 24, 0)
