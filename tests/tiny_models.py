"""A clone with models of a few thousand weights where `make reproduce` leaves its own: profile smoke."""

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unifashion.ground.core import Language, LanguageModel, digest, load_profile
from unifashion.ground.files import write_json
from unifashion.models.checkpoints import seeded
from unifashion.models.encoders import dual_encoder
from unifashion.models.foundations import save_foundation, save_tokenizer, train_tokenizer
from unifashion.models.language_models import open_writer, small_llama
from unifashion.models.qformer import QFormer
from unifashion.unified.language import new_captioner, save_captioner

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (230, 210, 50)}
SMOKE = load_profile("smoke")
LANGUAGE = LanguageModel(width=32, layers=1, heads=2)


def picture(colour, height=64, width=48):
    "A block of colour on white, as tall and wide as asked."
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = COLOURS[colour]
    return pixels


def write_shop(folder, table=True):
    "Four pictures of different shapes, one of them deeper, one a PNG; perhaps with texts."
    names = ("red.jpg", "women/green.jpg", "blue.png", "yellow.jpg")
    for name, size in zip(names, ((64, 48), (90, 40), (50, 50), (30, 120))):
        path = Path(folder, "images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(path.stem, *size)).save(path)
    if table:
        lines = ["image,text", *(f"{name},a {Path(name).stem} dress" for name in names)]
        Path(folder, "catalogue.csv").write_text("\n".join(lines) + "\n")
    return [f"images/{name}" for name in sorted(names)]


def strong(model, seed):
    "Weights so large that different pictures have different vectors."
    with seeded(seed, "tiny"), torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.4)
    return model.eval()


def write_parts(folder):
    "Tokenizer, image encoder and language model, as `train_foundations` leaves them."
    texts = [f"a {colour} dress with long sleeves" for colour in COLOURS]
    tokenizer = train_tokenizer(texts, 80)
    save_tokenizer(folder / "tokenizer", tokenizer)
    f = SMOKE.foundations
    with seeded(0, "tiny"):
        tower = dual_encoder(f, 64, 48, vocabulary=8).visual
    size = dict(patch=f.patch, width=f.width, layers=f.layers, heads=f.heads, height=64, image_width=48)
    save_foundation(folder / "image-encoder", strong(tower, 1).state_dict(), size)
    sizes = dict(width=32, layers=1, heads=2, context=160, vocab=tokenizer.get_vocab_size())
    llm = small_llama(LANGUAGE, sizes["vocab"]).state_dict()
    save_foundation(folder / "llm", {k: v for k, v in llm.items() if k != "lm_head.weight"}, sizes)
    return tokenizer


def tiny_qformer(vocab, seed=2, image_width=32):
    with seeded(0, "tiny"):
        return strong(QFormer(image_width, vocab, 32, 2, 2, 8, embed=16), seed)


def write_run(scale, parts, vocab, seed=2, captioner=True):
    "What train_foundations, train_pretrain and train_language leave in a folder of runs."
    shutil.copytree(parts, scale / "train_foundations" / "parts")
    first = scale / "train_pretrain" / "seed=0"
    tiny_qformer(vocab, seed).save_pretrained(first / "qformer")
    outputs = {"qformer/model.safetensors": str(seed)}
    write_json(first / "run.json", {"data": {}, "outputs": outputs})
    if captioner:
        second = scale / "train_language" / "seed=0"
        writer = open_writer(LANGUAGE, parts)
        made = new_captioner(writer, Language(rank=2, max_words=6), (8, 32), styles=("short", "professional"))
        save_captioner(made, second / "captioner")
        read = {"train_pretrain seed=0": {"key": "", "outputs": digest(outputs)}}
        write_json(second / "run.json", {"inputs": read})
    return first


def edit_examples():
    "Three persons' parts, four garments found for them, and their tokens: latents of 4 x 3, tokens of 24."
    rng = np.random.default_rng(0)
    parts = {"latents": rng.normal(size=(3, 4, 4, 3)), "masked": rng.normal(size=(3, 4, 4, 3)),
             "mask": np.ones((3, 1, 4, 3)), "pose": rng.random((3, 18, 4, 3))}
    tokens = {name: rng.normal(size=(7, 24)) for name in "abcd"}
    return parts, [list("abc"), list("bcd"), list("cda")], tokens
