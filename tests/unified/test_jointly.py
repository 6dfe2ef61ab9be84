"""Phase 1 at once: every loss is there, and everything that shall learn does."""

import pytest
import torch
from test_compose import SHOP, TOKENIZER, TOKENS, hashes, qformer, teachers  # noqa: F401

from unifashion.ground.core import Pretrain
from unifashion.models.batches import ProductViews, trimmed
from unifashion.models.checkpoints import seeded
from unifashion.unified.jointly import TaughtProducts, joined, joint_loss, train_jointly


@pytest.fixture
def at_once(teachers):  # noqa: F811
    made, known = teachers
    views = ProductViews(TOKENS, SHOP.products, SHOP.texts, TOKENIZER, 16)
    return joined(qformer(), *made()), TaughtProducts(views, [known])


def test_the_loss_is_the_sum_of_all_four(at_once):
    model, data = at_once
    with seeded(0, "batch"):
        told = joint_loss(model, trimmed([data[i] for i in range(12)]), itm_rows=4, taught_rows=8)
    parts = [told[name] for name in ("itc", "itm", "itg", "q2i")]
    assert torch.isclose(told["loss"], sum(parts)) and all(part > 0 for part in parts)


def test_what_is_said_and_painted_belongs_to_the_picture():
    lessons = [{"style": torch.full((54,), k), "told ids": torch.arange(54)} for k in range(3)]
    views = ProductViews(TOKENS, SHOP.products, SHOP.texts, TOKENIZER, 16)
    views.ids, views.rows = views.ids[::-1], views.rows[::-1]  # products in another order than pictures
    data = TaughtProducts(views, lessons)
    example = data[7]
    assert example["told ids"] == 46 and torch.equal(example["image"], torch.from_numpy(TOKENS[46]))
    with seeded(0, "styles"):
        assert {int(data[0]["style"]) for _ in range(40)} == {0, 1, 2}


def test_lessons_of_other_pictures_are_refused():
    views = ProductViews(TOKENS, SHOP.products, SHOP.texts, TOKENIZER, 16)
    with pytest.raises(ValueError, match=r"54 products, and lessons of \[50\]"):
        TaughtProducts(views, [{"told ids": torch.zeros(50)}])


def test_adapters_lora_and_qformer_learn_and_nothing_else(at_once, tmp_path):
    model, data = at_once
    before = hashes(model)
    settings = Pretrain(batch=8, lr=1e-2, warmup=1, itm_rows=4, checkpoint_every=0)
    train_jointly(model, data, settings, 2, tmp_path / "run", 0, 4, log=False)
    after = hashes(model)
    moved = {name for name in before if before[name] != after[name]}
    learns = ("qformer.", "captioner.adapter.", "captioner.llm.", "denoiser.adapters.", "denoiser.nothing.")
    assert all(any(name.startswith(own) for name in moved) for own in learns)
    assert all(name.startswith(learns) for name in moved)
    assert all("lora" in name for name in moved if name.startswith("captioner.llm."))
