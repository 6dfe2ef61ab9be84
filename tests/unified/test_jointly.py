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
    return joined(qformer(), *made()), TaughtProducts(views, known)


def test_the_loss_is_the_sum_of_all_four(at_once):
    model, data = at_once
    with seeded(0, "batch"):
        told = joint_loss(model, trimmed([data[i] for i in range(12)]), itm_rows=4, taught_rows=8)
    parts = [told[name] for name in ("itc", "itm", "itg", "q2i")]
    assert torch.isclose(told["loss"], sum(parts)) and all(part > 0 for part in parts)


def test_what_is_painted_belongs_to_the_pictures_of_the_batch(at_once):
    model, data = at_once
    assert torch.equal(data[7]["latents"], data.known["latents"][7])
    assert torch.equal(data[7]["image"], torch.from_numpy(TOKENS[7]))


def test_adapters_lora_and_qformer_learn_and_nothing_else(at_once, tmp_path):
    model, data = at_once
    before = hashes(model)
    settings = Pretrain(batch=8, lr=1e-2, warmup=1, itm_rows=4, checkpoint_every=0)
    train_jointly(model, data, settings, 2, tmp_path / "run", 0, 4, log=False)
    after = hashes(model)
    moved = {name for name in before if before[name] != after[name]}
    assert any("lora" in name for name in moved) and any(name.startswith("qformer.") for name in moved)
    assert any(name.startswith("captioner.adapter.") for name in moved)
    assert any(name.startswith("denoiser.adapters.") for name in moved)
    still = {name for name in before if name.startswith("denoiser.unet.")}
    still |= {name for name in before if name.startswith("captioner.llm.") and "lora" not in name}
    assert still and not still & moved
