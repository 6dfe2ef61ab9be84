"""ITC, ITM and the draw of hard negatives: hand-computed cases, torch's own numbers, and what must never
be drawn."""

import math

import pytest
import torch
import torch.nn.functional as F

from unifashion.models.losses import (
    Temperature,
    hard_negatives,
    itc,
    itm,
    itm_labels,
    itm_pairs,
    max_over_queries,
    positive_pairs,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("max_entries", [1, 700, 2**26])
def test_max_over_queries_blocks_agree_with_a_plain_loop(generator, max_entries):
    images, texts = torch.randn(11, 5, 8, generator=generator), torch.randn(7, 8, generator=generator)
    expected = torch.stack([torch.stack([(image @ text).max() for text in texts]) for image in images])
    assert torch.allclose(max_over_queries(images, texts, max_entries), expected, atol=1e-6)


def test_max_over_queries_gradient_reaches_the_best_query_alone():
    images = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], requires_grad=True)
    max_over_queries(images, torch.tensor([[0.9, 0.1]])).sum().backward()
    assert images.grad.tolist() == [[[pytest.approx(0.9), pytest.approx(0.1)], [0, 0]]]


def test_max_over_queries_names_bad_shapes():
    with pytest.raises(ValueError, match=r"\(4, 8\)"):
        max_over_queries(torch.ones(4, 8), torch.ones(4, 8))
    with pytest.raises(ValueError, match="n_query"):
        max_over_queries(torch.ones(4, 2, 8), torch.ones(4, 7))


def test_temperature_starts_stays_inside_and_recovers():
    temperature = Temperature()
    assert temperature().item() == pytest.approx(0.07)
    optimizer = torch.optim.AdamW(temperature.parameters(), lr=0.1, weight_decay=0)
    for _ in range(20):  # pushed down far beyond the bound ...
        optimizer.zero_grad()
        temperature().backward()
        optimizer.step()
    assert temperature().item() == pytest.approx(0.01)
    for _ in range(60):  # ... and free to come back
        optimizer.zero_grad()
        (-temperature()).backward()
        optimizer.step()
    assert temperature().item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="low"):
        Temperature(0.001)


def test_temperature_twice_in_one_graph_has_a_gradient():
    temperature = Temperature()
    (1 / temperature() + 1 / temperature()).backward()
    assert temperature.value.grad.item() == pytest.approx(-2 / 0.07**2, rel=1e-5)


def test_positive_pairs_from_products_and_tokens():
    ids = torch.tensor([[5, 6, 0], [7, 0, 0], [5, 6, 0], [8, 0, 0]])
    both = positive_pairs(["a", "b", "c", "b"], ids)
    assert both.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert torch.equal(positive_pairs(None, ids), torch.eye(4).bool() | (ids[:, 0][:, None] == ids[:, 0]))
    with pytest.raises(ValueError):
        positive_pairs(None)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_itc_without_positives_is_the_mean_of_two_cross_entropies(generator, smoothing):
    s, target = torch.randn(9, 9, generator=generator), torch.arange(9)
    expected = (
        F.cross_entropy(s / 0.2, target, label_smoothing=smoothing)
        + F.cross_entropy(s.T / 0.2, target, label_smoothing=smoothing)
    ) / 2
    assert torch.allclose(itc(s, 0.2, smoothing), expected)
    assert torch.allclose(itc(s, 0.2, smoothing, positives=torch.eye(9).bool()), expected)


def test_itc_leaves_other_positives_out_of_loss_and_gradient(generator):
    s = torch.randn(4, 4, generator=generator).requires_grad_()
    positives = positive_pairs([0, 1, 0, 2])
    itc(s, 0.1, 0.1, positives).backward()
    assert s.grad[0, 2] == 0 and s.grad[2, 0] == 0
    assert s.grad.isfinite().all() and (s.grad.diagonal() < 0).all()
    moved = s.detach().clone()
    moved[0, 2] += 5
    assert torch.equal(itc(moved, 0.1, 0.1, positives), itc(s, 0.1, 0.1, positives))


def test_itc_one_product_alone_costs_nothing():
    s = torch.zeros(3, 3, requires_grad=True)
    loss = itc(s, 0.07, 0.1, torch.ones(3, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (s.grad == 0).all()


def test_itc_is_fp32_and_square():
    assert itc(torch.eye(2, dtype=torch.bfloat16), 0.07).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        itc(torch.ones(2, 3), 0.07)


def test_negatives_are_never_positives(generator):
    products = [0, 0, 1, 2, 3, 3, 3, 4]
    ids = torch.tensor([[1], [1], [2], [3], [4], [4], [5], [2]])  # 2 and 7: two products, one text
    positives = positive_pairs(products, ids)
    own = torch.arange(8)
    for _ in range(200):
        s = torch.randn(8, 8, generator=generator) + 3 * positives  # positives look best
        n = hard_negatives(s, 0.07, positives, generator)
        assert not positives[own, n.texts].any() and not positives[n.images, own].any()
        assert n.texts_kept.all() and n.images_kept.all()


def test_negatives_follow_the_softmax_in_lavis_orientation(generator):
    s = torch.tensor([[0.0, 0.3, 0.1], [0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])
    draws = [hard_negatives(s, 0.1, generator=generator) for _ in range(3000)]
    text_of_0 = torch.stack([d.texts for d in draws])[:, 0]
    image_of_0 = torch.stack([d.images for d in draws])[:, 0]
    p = math.exp(3) / (math.exp(3) + math.exp(1))  # row 0: texts 1 and 2
    q = math.exp(2) / (math.exp(2) + math.exp(0))  # column 0: images 2 and 1
    assert (text_of_0 == 1).float().mean().item() == pytest.approx(p, abs=0.025)
    assert (image_of_0 == 2).float().mean().item() == pytest.approx(q, abs=0.025)


def test_negatives_repeat_with_the_generator_and_with_the_global_state():
    s = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    a, b = (hard_negatives(s, 0.07, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a.texts, b.texts) and torch.equal(a.images, b.images)
    torch.manual_seed(1)
    c = hard_negatives(s, 0.07)
    torch.manual_seed(1)
    d = hard_negatives(s, 0.07)
    assert torch.equal(c.texts, d.texts)


def test_no_candidate_is_marked_and_left_out_of_itm():
    negatives = hard_negatives(torch.ones(3, 3), 0.07, positive_pairs(["x", "x", "x"]))
    assert negatives.texts.tolist() == [0, 1, 2] and not negatives.texts_kept.any()
    pairs = itm_pairs(negatives)
    logits = torch.zeros(9, 2)
    logits[3:, 1] = 50  # would be very wrong, were they kept
    assert itm(logits, pairs.kept).item() == pytest.approx(math.log(2))


def test_non_finite_similarity_does_not_stop_the_draw():
    s = torch.full((4, 4), float("nan"))
    negatives = hard_negatives(s, 0.07)
    assert (negatives.texts != torch.arange(4)).all()
    assert itc(s, 0.07).isnan()  # the loss says so


def test_extreme_temperature_does_not_break_the_draw(generator):
    s = torch.randn(16, 16, generator=generator)
    negatives = hard_negatives(s, 1e-6, generator=generator)
    masked = s.masked_fill(torch.eye(16).bool(), -torch.inf)
    assert torch.equal(negatives.texts, masked.argmax(1)) and torch.equal(negatives.images, masked.argmax(0))


def test_itm_pairs_take_the_first_rows_and_line_up():
    s = torch.tensor([[1.0, 0.1, 0.9], [0.9, 1.0, 0.2], [0.1, 0.8, 1.0]])
    pairs = itm_pairs(hard_negatives(s, 1e-4), rows=2)
    assert pairs.images.tolist() == [0, 1, 0, 1, 1, 2]
    assert pairs.texts.tolist() == [0, 1, 2, 0, 0, 1]
    assert itm_labels(6).tolist() == [1, 1, 0, 0, 0, 0]
    assert len(itm_pairs(hard_negatives(s, 1e-4), rows=99).images) == 9
    with pytest.raises(ValueError, match="7"):
        itm(torch.zeros(7, 2))


def test_itm_is_plain_cross_entropy(generator):
    logits = torch.randn(12, 2, generator=generator)
    assert torch.allclose(itm(logits), F.cross_entropy(logits, itm_labels(12)))
