"""Costs at the papers' scale: a step counted and weighed by hand, hours, memory, what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaDecoderLayer

from unifashion.evidence import paper_costs as C
from unifashion.evidence import published_sizes as P
from unifashion.ground.core import load_profile


def layers(*learn):
    "4 -> 16 -> 32 -> 2 without biases, as shapes; which of them learn."
    sides = ((4, 16), (16, 32), (32, 2))
    with torch.device("meta"):
        net = nn.Sequential(*(nn.Linear(*own, bias=False) for own in sides))
    for layer, learns in zip(net, learn):
        layer.requires_grad_(learns)
    return net


FIRST, MIDDLE, LAST = 2 * 8 * 4 * 16, 2 * 8 * 16 * 32, 2 * 8 * 32 * 2  # operations of eight rows


@pytest.mark.parametrize(
    "learn, backward, kept",
    [
        # to the weights of each, and to the inputs of all but the first
        ((True, True, True), FIRST + 2 * MIDDLE + 2 * LAST, 8 * (4 + 16 + 32)),
        ((False, False, True), LAST, 8 * 32),                 # nothing before it has a way back
        ((True, False, False), FIRST + MIDDLE + LAST, 8 * 4),  # the frozen ones are passed through
    ],
)
def test_a_step_is_counted_as_autograd_makes_it(learn, backward, kept):
    net = layers(*learn)
    told = P.counted(lambda: net(torch.randn(8, 4, device="meta")).sum(), net)
    assert told.forward == FIRST + MIDDLE + LAST and told.backward == backward
    assert told.kept.tolist() == [2 * kept, 4 * kept]
    assert told.checkpointed.tolist() == told.kept.tolist()  # there are no blocks
    assert all(own.grad is None for own in net.parameters())


def test_attention_of_shapes_keeps_no_table_and_multiplies_again_on_the_way_back():
    def attend(n):
        asked = nn.Parameter(torch.randn(1, 2, n, 8, device="meta"))
        net = nn.ParameterList([asked])
        return P.counted(lambda: nn.functional.scaled_dot_product_attention(asked, asked, asked).sum(), net)
    short, long = attend(16), attend(64)
    assert short.forward == 2 * 2 * (2 * 16 * 16 * 8) and short.backward == 2.5 * short.forward
    assert long.forward == 16 * short.forward
    assert long.kept[1] == 0  # what went in is the model's own


def test_attention_of_numbers_is_left_alone():
    asked = torch.randn(1, 2, 5, 8)
    plain = nn.functional.scaled_dot_product_attention(asked, asked, asked)
    with P.FusedOnMeta():
        assert torch.equal(nn.functional.scaled_dot_product_attention(asked, asked, asked), plain)


def test_checkpointing_keeps_what_enters_each_block_and_one_block():
    config = LlamaConfig(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=4,
                         attn_implementation="eager")
    blocks = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(4))
    around = torch.ones(1, 6, 8), torch.zeros(1, 6, 8)

    def step():
        hidden = torch.randn(3, 6, 16)
        for block in blocks:
            hidden = block(hidden, position_embeddings=around)
        return hidden.sum()
    told = P.counted(step, blocks)
    entering = 3 * 6 * 16 * 4
    block = (told.kept[1] - told.checkpointed[1] + 4 * entering) / 3  # all but one are given up
    assert 0 < told.checkpointed[1] < told.kept[1] / 2
    assert told.checkpointed[1] == pytest.approx(4 * entering + block, rel=0.1)


@pytest.fixture(scope="module")
def stage():
    net = layers(True, True, False)
    return C.Stage(100, 8, net, lambda: net(torch.randn(8, 4, device="meta")).sum(), average=True)


def test_memory_is_weights_gradients_moments_and_what_a_step_keeps(stage):
    cost = C.costs_of(stage)
    trained, frozen = 4 * 16 + 16 * 32, 32 * 2
    assert (cost.trained, cost.frozen, cost.weights) == (trained, frozen, 4 * (trained + frozen))
    kept = 8 * (4 + 16)
    fixed = 4 * (trained + frozen) + trained * (2 + 4 + 8 + 4)
    assert cost.memory().tolist() == [fixed + 2 * kept, fixed + 4 * kept]
    assert cost.memory(4)[1] == fixed + kept  # a share of the batch, all of the weights
    shared = C.costs_of(stage._replace(shard=True, average=False))
    assert shared.memory(2)[1] == (fixed - 4 * trained) / 2 + 2 * kept


def test_hours_are_operations_over_what_is_reached(stage):
    cost = C.costs_of(stage)
    told = 100 * (cost.counted.forward + cost.counted.backward)
    assert cost.hours(share=0.5, peak=1000.) == pytest.approx(told / 500 / 3600)
    assert cost.hours(8) == pytest.approx(cost.hours() / 8)
    assert cost.hours(share=0.2) == pytest.approx(2 * cost.hours(share=0.4))
    for wrong in (0., 1.5):
        with pytest.raises(ValueError, match=f"share = {wrong}"):
            cost.hours(share=wrong)


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="unknown stage 'phase 3'; there are phase 1, captions"):
        C.stage_of("phase 3")


def test_phase_1_at_its_published_size():
    paper = load_profile("paper")
    cost = C.costs_of(C.stage_of("phase 1", paper))
    assert cost.frozen == 0 and 180e6 < cost.trained < 195e6  # BLIP-2: 188 M
    assert cost.stage.steps == paper.pretrain.steps and cost.stage.batch == 128
    assert 1.9 < cost.counted.backward / cost.counted.forward < 2.1  # all of it learns
    row = C.cost_rows({"phase 1": cost})[0]
    assert row["jobs of a day"] == 1 and row["hours on one"] == pytest.approx(8 * row["on eight"], rel=0.1)


def test_the_second_stage_of_rag_trains_the_painter_too():
    few = load_profile("paper").rag
    few = SimpleNamespace(rag=SimpleNamespace(steps=few.steps, batch=1, garments=few.garments))
    first, second = (C.costs_of(C.stage_of(name, few)) for name in ("RAG, stage 1", "RAG, stage 2"))
    assert second.stage.steps == round(0.6 * first.stage.steps)
    pose = 18 * 320 * 9  # weights of its channels
    assert first.trained + first.frozen + pose == second.trained + second.frozen
    assert second.trained > 6 * first.trained
    assert np.all(second.counted.forward >= first.counted.forward)
    assert second.counted.backward > 1.5 * first.counted.backward
