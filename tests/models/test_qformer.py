"""The Q-Former: masks, invariants, parity with the library, save and load; phase 1, its scores, its starts;
the baselines."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, Blip2Config
from transformers.models.blip_2.modeling_blip_2 import Blip2ForImageTextRetrieval

from unifashion.models.qformer import (
    QFormer,
    additive,
    bidirectional,
    blip2_on_meta,
    block_diagonal,
    causal,
    from_blip2,
    init_from_bert,
    part_sizes,
)

VOCAB, WORDS = 50, 8


def small(**changes):
    torch.manual_seed(0)
    return QFormer(
        **dict(image_width=20, vocab=VOCAB, width=32, layers=4, heads=4, n_query=6, embed=16, max_words=WORDS)
        | changes
    ).eval()


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def batch():
    g = torch.Generator().manual_seed(1)
    mask = torch.ones(3, WORDS).bool()
    mask[1, 5:] = False
    return torch.randn(3, 7, 20, generator=g), torch.randint(6, VOCAB, (3, WORDS), generator=g), mask


def test_masks_by_hand():
    mask = torch.tensor([[1, 1, 0]])
    look = lambda seen: ["".join(str(int(v)) for v in row) for row in seen[0]]
    assert look(block_diagonal(2, mask)) == ["11000", "11000", "00110", "00110", "00110"]
    assert look(bidirectional(2, mask)) == ["11110"] * 5
    assert look(causal(2, mask)) == ["11000", "11000", "11100", "11110", "11110"]
    added = additive(causal(2, mask))
    assert added.shape == (1, 1, 5, 5) and added.is_floating_point() and added.bfloat16().isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_block_diagonal_is_two_passes(batch, attention):
    model = small()
    model.qformer.set_attn_implementation(attention)
    tokens, ids, mask = batch
    together = model.fused_states(tokens, ids, mask, block_diagonal)
    for one, two in (
        (together[:, :6], model.image_states(tokens)),
        (together[:, 6:][mask], model.text_states(ids, mask)[mask]),
    ):
        assert (one - two).abs().max() < 1e-6 * two.abs().max()


@torch.no_grad()
def test_what_a_word_moves(model, batch):
    tokens, ids, mask = batch
    other = ids.clone()
    other[:, 3] = 6 + (ids[:, 3] - 5) % (VOCAB - 6)
    moved = {
        s.__name__: (model.fused_states(tokens, ids, mask, s) - model.fused_states(tokens, other, mask, s))[0]
        .abs()
        .amax(-1)
        for s in (block_diagonal, bidirectional, causal)
    }
    assert moved["block_diagonal"][:6].max() < 3e-6 and moved["causal"][:9].max() < 3e-6
    assert moved["causal"][9:].min() > 1e-4 and moved["bidirectional"][:6].min() > 0


@torch.no_grad()
def test_padding_changes_nothing(model, batch):
    tokens, ids, mask = batch
    other = torch.where(mask, ids, 9)
    for call in (lambda i: model.text(i, mask), lambda i: model.joint(tokens, i, mask)):
        assert torch.allclose(call(ids), call(other), atol=1e-5)
    assert torch.allclose(model.text(ids[1:2, :5], mask[1:2, :5]), model.text(ids, mask)[1:2], atol=1e-5)


@torch.no_grad()
def test_shapes_lengths_and_distinct_queries(model, batch):
    tokens, ids, mask = batch
    image, text = model.image(tokens), model.text(ids, mask)
    assert (
        image.shape == (3, 6, 16) and text.shape == (3, 16) and model.joint(tokens, ids, mask).shape == (3, 2)
    )
    assert torch.allclose(image.norm(dim=-1), torch.ones(3, 6)) and torch.allclose(
        text.norm(dim=-1), torch.ones(3)
    )
    cosines = image[0] @ image[0].T
    assert cosines[~torch.eye(6, dtype=bool)].max() < 0.999 and model.query_tokens.std() > 0.01
    assert torch.equal(model.image(tokens.half()), model.image(tokens.half().float()))


def test_a_long_text_is_refused(model):
    with pytest.raises(ValueError, match=f"9 word pieces.*max_words={WORDS}"):
        model.text(torch.ones(1, 9).long(), torch.ones(1, 9))


def test_query_ffn_starts_as_the_texts(model):
    for layer in model.qformer.encoder.layer:
        assert all(
            torch.equal(a, b)
            for a, b in zip(layer.intermediate_query.parameters(), layer.intermediate.parameters())
        )
        assert all(
            torch.equal(a, b) for a, b in zip(layer.output_query.parameters(), layer.output.parameters())
        )
    assert [hasattr(layer, "crossattention") for layer in model.qformer.encoder.layer] == [
        True,
        False,
        True,
        False,
    ]


@torch.no_grad()
def test_text_side_of_a_bert(batch):
    tokens, ids, mask = batch
    torch.manual_seed(2)
    bert = BertModel(
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=128,
        )
    ).eval()
    model = small()
    init_from_bert(model, bert.state_dict())
    bert.encoder.layer = bert.encoder.layer[:4]  # the first layers are taken
    theirs = bert(ids, attention_mask=mask.long()).last_hidden_state
    assert (model.text_states(ids, mask) - theirs)[mask].abs().max() < 1e-5
    with pytest.raises(ValueError, match="in the BERT"):
        init_from_bert(small(width=16), bert.state_dict())


@torch.no_grad()
def test_parity_with_the_librarys_retrieval_model(batch):
    _, ids, mask = batch
    vision = dict(
        hidden_size=20,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        initializer_range=0.2,
    )
    text = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        encoder_hidden_size=20,
        max_position_embeddings=WORDS,
        use_qformer_text_input=True,
    )
    torch.manual_seed(3)
    theirs = Blip2ForImageTextRetrieval(
        Blip2Config(vision_config=vision, qformer_config=text, num_query_tokens=5, image_text_hidden_size=16)
    ).eval()
    nn.init.normal_(theirs.query_tokens)
    ours = from_blip2(theirs).eval()
    pixels = torch.randn(3, 3, 28, 28)
    raw = theirs.vision_model.encoder(inputs_embeds=theirs.vision_model.embeddings(pixels)).last_hidden_state
    options = dict(pixel_values=pixels, input_ids=ids, attention_mask=mask.long())
    similarity = torch.einsum("iqd,td->itq", ours.image(raw), ours.text(ids, mask)).amax(-1)
    assert raw.std() > 0.1 and torch.allclose(similarity, theirs(**options).logits_per_image, atol=1e-4)
    assert torch.allclose(
        ours.joint(raw, ids, mask),
        theirs(**options, use_image_text_matching_head=True).logits_per_image,
        atol=1e-4,
    )


@torch.no_grad()
def test_save_and_load(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    again = QFormer.from_pretrained(tmp_path).eval()
    assert torch.equal(again.joint(*batch), model.joint(*batch)) and (tmp_path / "model.safetensors").exists()


def test_published_shapes_on_meta():
    full = blip2_on_meta()
    sizes = part_sizes(full)
    assert sum(sizes.values()) == 1_172_031_490 and sizes["vision_model"] == 985_952_256
    with torch.device("meta"):
        paper = QFormer(image_width=1408, vocab=30522, max_words=512)
    theirs = {
        k.replace("vision_model.post_layernorm", "ln_vision"): v.shape for k, v in full.state_dict().items()
    }
    ours = {k: v.shape for k, v in paper.state_dict().items()}
    assert ours.pop("temperature.value") == ()  # the port has none
    assert ours == {k: v for k, v in theirs.items() if not k.startswith("vision_model.")}
