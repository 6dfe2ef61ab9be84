"""Inversion: exact places, mixed numbers of garments, plain text bit by bit, and both tokenizers' ends."""

import pytest
import torch

from unifashion.models.checkpoints import seeded
from unifashion.models.foundations import train_tokenizer
from unifashion.models.unet import PLACES, new_inpainter, prompts
from unifashion.rag.inversion import N_TOKENS, Inversion, room, spliced_prompts, spliced_states

TOKENIZER = train_tokenizer(["a blue striped shirt with short sleeves"] * 3, 90)


@pytest.fixture(scope="module")
def text_encoder():
    return new_inpainter(90, 4, (4, 3), (16, 16, 24), 32, 2).text_encoder.eval()


def pseudo(n):
    return torch.randn(n, N_TOKENS, 32, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("pieces, garments, left", [(0, 0, 75), (3, 4, 8), (11, 4, 0), (75, 0, 0),
                                                    (27, 3, 0)])
def test_the_sum_of_the_places(pieces, garments, left):
    assert room("a text", pieces, garments) == left


@pytest.mark.parametrize("pieces, garments, told", [(12, 4, r"begin 1 \+ text 12 \+ 16 x 4 garments .* = 78"),
                                                    (76, 0, "= 78"), (0, 5, "= 82")])
def test_one_place_too_many_is_refused_with_the_sum(pieces, garments, told):
    with pytest.raises(ValueError, match=told):
        room("a text", pieces, garments)


def test_garments_stand_behind_the_text_and_before_the_end():
    own = spliced_prompts(TOKENIZER, ["a blue shirt"], [2])
    plain = prompts(TOKENIZER, ["a blue shirt"])[0]
    words = int((plain != plain[-1]).sum())  # begin, text, end; the rest is filled up
    assert own.places[0].nonzero().flatten().tolist() == list(range(words - 1, words - 1 + 32))
    assert torch.equal(own.ids[0, :words - 1], plain[:words - 1])
    assert own.ids[0, words - 1 + 32] == plain[words - 1] and own.ids.shape == (1, PLACES)


def test_without_garments_it_is_the_plain_text_encoder(text_encoder):
    texts = ["a blue shirt", "", "striped sleeves"]
    own = spliced_prompts(TOKENIZER, texts, [0, 0, 0])
    assert torch.equal(own.ids, prompts(TOKENIZER, texts)) and not own.places.any()
    with torch.no_grad():
        assert torch.equal(spliced_states(text_encoder, own, pseudo(0)),
                           text_encoder(own.ids).last_hidden_state)


def test_mixed_numbers_in_a_batch_are_as_alone(text_encoder):
    texts, counts = ["a blue shirt", "striped", "sleeves", "a"], [1, 0, 3, 2]
    given = pseudo(6)
    together = spliced_states(text_encoder, spliced_prompts(TOKENIZER, texts, counts), given)
    parts = given.split(counts)
    for row, (text, count) in enumerate(zip(texts, counts)):
        alone = spliced_states(text_encoder, spliced_prompts(TOKENIZER, [text], [count]), parts[row])
        assert torch.allclose(together[row], alone[0], atol=1e-5)


def test_a_spoken_word_as_pseudo_token_is_that_word(text_encoder):
    "Splicing the embeddings of sixteen words gives what those words give."
    word = TOKENIZER.token_to_id("blue")
    spliced = spliced_prompts(TOKENIZER, ["a"], [1])
    ids = torch.where(spliced.places, word, spliced.ids)
    embedding = text_encoder.embeddings.token_embedding.weight[word]
    with torch.no_grad():
        told = spliced_states(text_encoder, spliced, embedding.expand(1, N_TOKENS, -1))
        assert torch.equal(told, text_encoder(ids).last_hidden_state)


def test_gradients_go_through_the_frozen_text_encoder(text_encoder):
    with seeded(0, "inversion"):
        inversion = Inversion(24, 32, 2, scale=0.02)
    text_encoder.requires_grad_(False)
    told = spliced_states(text_encoder, spliced_prompts(TOKENIZER, ["a", "a"], [1, 0]),
                          inversion(torch.randn(1, 5, 24)))
    told[0].square().sum().backward()
    assert all(own.grad is not None and own.grad.abs().sum() > 0 for own in inversion.net.parameters())


def test_too_few_garments_and_impossible_counts_are_refused(text_encoder):
    with pytest.raises(ValueError, match="places for 2 garments, and 1 are given"):
        spliced_states(text_encoder, spliced_prompts(TOKENIZER, ["a"], [2]), pseudo(1))
    one = spliced_prompts(TOKENIZER, ["a"], [1])
    with pytest.raises(ValueError, match="places for 1 garments, and 2 are given"):  # whatever counts say
        spliced_states(text_encoder, one._replace(counts=(2,)), pseudo(2))
    with pytest.raises(ValueError, match="-1 garments"):
        spliced_prompts(TOKENIZER, ["a"], [-1])
    with pytest.raises(ValueError):
        spliced_prompts(TOKENIZER, ["a", "b"], [1])
