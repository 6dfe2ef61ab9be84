"""The training stages, each on a toy: `test_several_processes.py` runs them in one process and in two."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from tiny_models import edit_examples

from unifashion.ground.core import Compose, Diffusion, Language, LanguageModel, Pretrain, Rag
from unifashion.ground.runs import rank
from unifashion.models.batches import ProductViews, patch_tokens, toy_shop
from unifashion.models.checkpoints import seeded, trained_tensors
from unifashion.models.foundations import train_tokenizer
from unifashion.models.language_models import FRAMES, Writer, library_tokenizer, small_llama
from unifashion.models.qformer import QFormer
from unifashion.models.unet import EMPTY, PLACES, new_inpainter
from unifashion.rag.model import Edits, new_editor, posed, train_editor
from unifashion.unified.compose import ComposedQueries, Composer, lessons_of, train_composer
from unifashion.unified.denoising import train_denoiser
from unifashion.unified.diffusion import DESIGN, Wiring, new_denoiser
from unifashion.unified.language import Captions, new_captioner, train_captioner
from unifashion.unified.pretrain import pretrain

torch.set_num_threads(1)
SHOP = toy_shop(scale=2, shifts=(-2, 2))
TOKENS = patch_tokens(SHOP.images)
TOKENIZER = train_tokenizer([*SHOP.texts, "is blue and should be long", "write a caption"] * 2, 120)
# the second text of every product is longer, so that two processes cut their texts at other lengths
TEXTS = [text + ", short and blue" * (i % 2) for i, text in enumerate(SHOP.texts)]
HOW = dict(log=False, device="cpu")


def qformer():
    with seeded(0, "toy"):
        return QFormer(image_width=17, vocab=120, width=24, layers=2, heads=2, n_query=4, embed=16,
                       max_words=24)


def captioner():
    llm = LanguageModel(width=32, layers=2, heads=2, context=160)
    writer = Writer(small_llama(llm, TOKENIZER.get_vocab_size()).eval(), library_tokenizer(TOKENIZER),
                    FRAMES["paper"], "toy", plain=True)
    return new_captioner(writer, Language(rank=2, max_words=16), (4, 24), styles=("key points",))


def denoiser(wiring=Wiring(("queries",), channels=(), trained=())):
    base = new_inpainter(120, 4, (8, 6), (16, 16, 24), 24, 1)
    return new_denoiser(base, wiring, 0, qformer())


class Rows(list):
    "Examples that are there; `ids` are their numbers."

    def __init__(self, n, example):
        super().__init__(example(i) for i in range(n))
        self.ids = list(range(n))


def fitting(i):
    "A person, a mask that covers more or less, a sketch and words."
    chance = torch.Generator().manual_seed(i)
    parts = {name: torch.randn(4, 8, 6, generator=chance)
             for name in ("latents", "agnostic", "pose", "sketch")}
    mask = torch.zeros(1, 8, 6)
    mask[:, :1 + i % 8] = 1
    return parts | {"mask": mask, "ids": torch.randint(6, 120, (PLACES,), generator=chance), "empty": EMPTY,
                    "tokens": torch.from_numpy(TOKENS[i]).float(), "words_mask": torch.ones(9, dtype=bool),
                    "words": torch.randint(6, 120, (9,), generator=chance)}


def phase_1(folder):
    model = qformer()
    data = ProductViews(TOKENS, SHOP.products, TEXTS, TOKENIZER, 24)
    settings = Pretrain(steps=4, batch=8, warmup=1, itm_rows=4, checkpoint_every=2)
    return model, pretrain(model, data, settings, folder, 0, **HOW)


def language(folder, shard=False):
    model = captioner()
    images = np.random.default_rng(0).normal(size=(len(TEXTS), 4, 24)).astype(np.float16)
    data = Captions(images, SHOP.products, {"key points": TEXTS}, model.writer, 16)
    settings = Language(steps=4, batch=8, rank=2, max_words=16, checkpoint_every=2, shard=shard)
    return model, train_captioner(model, data, settings, folder, 0, **HOW)


def language_in_shares(folder):
    return language(folder, shard=True)


def diffusion(folder):
    model = denoiser(DESIGN)
    settings = Diffusion(4, batch=4, checkpoint_every=2)
    return model, train_denoiser(model, Rows(8, fitting), settings, folder, 0, **HOW)


def compose(folder):
    model = Composer(qformer(), captioner(), denoiser())
    places = np.array([(i, (14 * i + 6) % 108) for i in range(24)])
    queries = [SimpleNamespace(id=f"q{i}", captions=("is blue", "should be long")) for i in range(24)]
    known = lessons_of(model.captioner.writer, TEXTS, 0, 16)
    latents = torch.randn(108, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    known |= {"latents": latents, "agnostic": 0 * latents, "everywhere": torch.ones(108, 1, 8, 6)}
    data = ComposedQueries(queries, places, TOKENS, TEXTS, TOKENIZER, 24, known)
    settings = Compose(steps=4, batch=8, itm_rows=4, taught_rows=4, checkpoint_every=2)
    return model, train_composer(model, data, settings, folder, 0, **HOW)


def rag(folder, second=False):
    parts, found, tokens = edit_examples()
    phrases = [("a blue shirt", "short"), ("a red coat", "buttons", "wool"), ("striped",)]
    data = Edits({name: np.concatenate([own, own[:1]]) for name, own in parts.items()}, ["w", "x", "y", "z"],
                 [*phrases, phrases[0]], [*found, found[0]], tokens, TOKENIZER, at_random=True)
    model = new_editor(new_inpainter(120, 4, (4, 3), (16, 16, 24), 32, 1), 24, seed=0)
    model = posed(model) if second else model
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.
    return model, train_editor(model, data, Rag(steps=5, batch=4, checkpoint_every=2), folder, 0, **HOW)


def rag_second(folder):
    return rag(folder, second=True)


def exact(stage):
    "A stage in fp32, whatever this processor is fast at: sums in another order stay near one another."
    def run(folder):
        with mock.patch.object(torch.cpu, "get_capabilities", dict):
            return stage(folder)
    return run


STAGES = {own.__name__: exact(own) for own in (phase_1, language, language_in_shares, diffusion, compose, rag,
                                               rag_second)}


def killed_at(step):
    "From now on the second process dies as if somebody pulled its plug, before it makes this step."
    import unifashion.models.train as loop
    advance = loop.advance

    def doomed(run, batch):
        if run.done == step and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(run, batch)
    loop.advance = doomed


def watched(home):
    "From now on, weights in shares say how large a part of them this process has."
    import unifashion.models.train as loop
    deal = loop.in_shares

    def dealt(step, device):
        made = deal(step, device)
        own = [weight.to_local().numel() / weight.numel() for weight in made.parameters()]
        (home / "in shares").write_text(f"{np.mean(own):.2f}")
        return made
    loop.in_shares = dealt


def in_process(home, names):
    "What each of torchrun's processes does: stage after stage; all hold the same weights afterwards."
    import torch.distributed as dist
    for name in names:
        model, _ = STAGES[name](home / name)
        mine = torch.cat([own.flatten().float() for own in trained_tensors(model).values()])
        others = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(others, mine)
        assert all(torch.equal(mine, own) for own in others), f"{name}: processes ended apart"
    (home / f"rank-{dist.get_rank()}").write_text(f"one of {dist.get_world_size()}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[2:]:
        killed_at(int(sys.argv[2]))
    watched(Path(sys.argv[1]))
    in_process(Path(sys.argv[1]), ["language_in_shares"] if sys.argv[2:] else STAGES)
