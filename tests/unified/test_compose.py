"""Phase 2: what is learned, from whom, and how a gallery is searched."""

import inspect
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unifashion.ground import composed_recall as r
from unifashion.ground.core import Compose, Language, LanguageModel
from unifashion.models.batches import patch_tokens, toy_shop
from unifashion.models.checkpoints import seeded
from unifashion.models.foundations import save_foundation, save_tokenizer, train_tokenizer
from unifashion.models.language_models import open_writer, small_llama
from unifashion.models.qformer import QFormer
from unifashion.models.unet import new_inpainter
from unifashion.unified import composed_search as s
from unifashion.unified.compose import (
    ComposedQueries,
    Composer,
    Joined,
    composed_loss,
    load_composer,
    save_composer,
    shortened,
    spoken,
    taught,
    train_composer,
)
from unifashion.unified.diffusion import Wiring, new_denoiser
from unifashion.unified.language import encode_captions, new_captioner

SHOP = toy_shop(scale=2, shifts=(0,))
TOKENS = patch_tokens(SHOP.images)
TOKENIZER = train_tokenizer([*SHOP.texts, "is blue and should be long"], 120)
PLACES = np.array([(i, (7 * i + 3) % 54) for i in range(24)])


def qformer(seed=0):
    with seeded(seed, "test"):
        return QFormer(image_width=17, vocab=120, width=24, layers=2, heads=2, n_query=4, embed=16,
                       max_words=16)


def asked(n=24):
    return [SimpleNamespace(id=f"q{i}", reference=SHOP.products[i], target=SHOP.products[PLACES[i, 1]],
                            captions=("is blue", "should be long")) for i in range(n)]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    "A captioner and a denoiser that have seen nothing, and what they know of the toy shop."
    folder = tmp_path_factory.mktemp("parts")
    save_tokenizer(folder / "tokenizer", TOKENIZER)
    sizes = dict(width=32, layers=1, heads=2, context=160, vocab=TOKENIZER.get_vocab_size())
    llm = LanguageModel(width=32, layers=1, heads=2)
    weights = small_llama(llm, sizes["vocab"]).state_dict()
    save_foundation(folder / "llm", {k: v for k, v in weights.items() if k != "lm_head.weight"}, sizes)
    writer = open_writer(llm, folder)

    def made():
        captioner = new_captioner(open_writer(llm, folder), Language(rank=2, max_words=12), (4, 24),
                                  styles=("key points",))
        base = new_inpainter(120, latent_channels=4, size=(8, 6), widths=(32, 32, 32), text_width=32,
                             text_layers=1)
        denoiser = new_denoiser(base, Wiring(("queries",), channels=(), trained=()), 0, qformer())
        return captioner, denoiser

    ids, mask, _ = encode_captions(writer, SHOP.texts, 12)
    latents = torch.randn(54, 4, 8, 6)
    known = {"told ids": ids, "told mask": mask, "style": torch.zeros(54, dtype=torch.long),
             "latents": latents, "agnostic": torch.zeros_like(latents), "everywhere": torch.ones(54, 1, 8, 6)}
    return made, known


def examples(known=None):
    return ComposedQueries(asked(), PLACES, TOKENS, SHOP.texts, TOKENIZER, 16, known)


def batch_of(data, n=8):
    with seeded(0, "batch"):
        return shortened([data[i] for i in range(n)])


def hashes(module):
    return {name: sha256(p.detach().numpy().tobytes()).hexdigest() for name, p in module.named_parameters()}


def test_changes_are_heard_in_four_ways():
    data = examples()
    with seeded(1, "forms"):
        heard = {tuple(data[0]["ids"].tolist()) for _ in range(60)}
    assert len(heard) == 4
    assert spoken(("is blue.",)) == spoken(("is blue", "is blue.")) == ["is blue"] * 4


def test_an_empty_change_is_refused_by_name():
    queries = asked(2)
    queries[1].captions = (" . ", "")
    with pytest.raises(ValueError, match="q1: the change is empty"):
        ComposedQueries(queries, PLACES[:2], TOKENS, SHOP.texts, TOKENIZER, 16)


def test_every_part_of_the_loss_can_be_left_out(teachers):
    made, known = teachers
    batch = batch_of(examples(known))
    plain = Composer(qformer())
    assert set(composed_loss(plain, batch, captions=False, itm_rows=0)) == {"loss", "itc"}
    assert set(composed_loss(plain, batch)) == {"loss", "itc", "captions", "itm"}
    told = composed_loss(Composer(qformer(), *made()), batch)
    assert set(told) == {"loss", "itc", "captions", "itm", "itg", "q2i"}
    assert torch.isclose(told["loss"], sum(own for name, own in told.items() if name != "loss"))


@pytest.mark.parametrize("part", ["itg", "q2i"])
def test_a_teacher_reaches_the_qformer_and_stays_as_it_is(teachers, part):
    made, known = teachers
    captioner, denoiser = made()
    model = Composer(qformer(), captioner, denoiser).train()
    composed_loss(model, batch_of(examples(known)))[part].backward()
    assert model.qformer.query_tokens.grad.abs().sum() > 0
    cross = [p.grad for name, p in model.qformer.named_parameters() if "crossattention" in name]
    assert sum(float(g.abs().sum()) for g in cross if g is not None) > 0
    learns = {name for name, p in model.named_parameters()
              if p.grad is not None and not name.startswith("qformer.")}
    allowed = "captioner.adapter." if part == "itg" else "denoiser.adapters."
    assert learns and all(name.startswith(allowed) for name in learns)


def test_what_phase_2_has_taught_is_kept_and_meets_its_teachers_again(teachers, tmp_path):
    made, known = teachers
    model = Composer(qformer(), *made())
    settings = Compose(steps=2, batch=8, lr=0.1, itm_rows=4, taught_rows=4, checkpoint_every=0)
    train_composer(model, examples(known), settings, tmp_path / "run", 0, log=False)
    save_composer(model, tmp_path / "kept")
    fresh = made()
    again = load_composer(tmp_path / "kept", *fresh)
    assert hashes(again.captioner.adapter) == hashes(model.captioner.adapter) != hashes(made()[0].adapter)
    assert hashes(again.denoiser.adapters) == hashes(model.denoiser.adapters)
    assert hashes(again.qformer) == hashes(model.qformer)
    with pytest.raises(ValueError, match="kept: it was taught by a captioner, and none is here"):
        load_composer(tmp_path / "kept", None, fresh[1])


def test_a_system_without_teachers_meets_those_of_phase_1(teachers, tmp_path):
    made, _ = teachers
    save_composer(Composer(qformer()), tmp_path / "alone")
    captioner, denoiser = made()
    before = hashes(captioner) | hashes(denoiser.adapters)
    load_composer(tmp_path / "alone", captioner, denoiser)
    assert hashes(captioner) | hashes(denoiser.adapters) == before


def test_training_changes_no_frozen_weight(teachers, tmp_path):
    made, known = teachers
    captioner, denoiser = made()
    model = Composer(qformer(), captioner, denoiser, adapters=False)
    before = hashes(captioner) | hashes(denoiser)
    start = hashes(model.qformer)
    settings = Compose(steps=3, batch=8, itm_rows=4, taught_rows=4, checkpoint_every=0)
    history = train_composer(model, examples(known), settings, tmp_path / "run", 0, log=False)
    assert len(history["q2i"]) == 3 and np.isfinite(history["itg"]).all()
    assert hashes(captioner) | hashes(denoiser) == before
    assert hashes(model.qformer) != start


def test_teachers_see_the_slots_alone(teachers):
    "With the slots at hand, other words and another reference change nothing that teachers say."
    made, known = teachers
    model = Composer(qformer(), *made()).eval()
    batch = batch_of(examples(known))
    _, slots = model.composed(batch["reference"], batch["ids"], batch["mask"])
    assert slots.shape == (8, 4, 24)
    other = batch | {"ids": batch["ids"].flip(0), "mask": batch["mask"].flip(0),
                     "reference": batch["reference"].flip(0)}
    said = []
    for shown in (batch, other, other | {"told ids": batch["told ids"].flip(0)}):
        with seeded(1, "noise"), torch.no_grad():
            said.append(taught(model, slots, shown))
    assert said[0] == said[1]
    assert said[0]["q2i"] == said[2]["q2i"] and said[0]["itg"] != said[2]["itg"]


def test_words_change_the_slots_and_the_query():
    model = Composer(qformer()).eval()
    batch = batch_of(examples())
    with torch.no_grad():
        query, slots = model.composed(batch["reference"], batch["ids"], batch["mask"])
        other, moved = model.composed(batch["reference"], batch["ids"].flip(0), batch["mask"].flip(0))
    assert not torch.allclose(query, other) and not torch.allclose(slots, moved)


def test_queries_of_one_target_are_no_negatives_of_each_other():
    "Two queries with the same target: the loss is that of the others, as if one were asked twice."
    model = Composer(qformer()).eval()
    queries = asked(4)
    places = PLACES[:4].copy()
    places[1, 1] = places[0, 1]
    data = ComposedQueries(queries, places, TOKENS, SHOP.texts, TOKENIZER, 16)
    batch = batch_of(data, 4)
    assert batch["product"][0] == batch["product"][1]
    with torch.no_grad():
        parts = composed_loss(model, batch, captions=False, itm_rows=0)
        pair = {name: own[:2] for name, own in batch.items()}
        alone = composed_loss(model, pair, captions=False, itm_rows=0)
    assert float(alone["itc"]) == pytest.approx(0, abs=1e-6) and float(parts["itc"]) > 0


@pytest.fixture(scope="module")
def searching():
    model = Composer(qformer(3))
    catalogue = SimpleNamespace(products=SHOP.products, fingerprint="toy shop")
    gallery = s.embed_gallery(model, catalogue, TOKENS)
    return s.ComposedSearch(model, TOKENIZER, 16), gallery, catalogue


def test_a_gallery_is_the_training_pass(searching):
    search, gallery, _ = searching
    with torch.no_grad():
        trained = search.model.qformer.image(torch.from_numpy(TOKENS[:5])).numpy()
    assert np.allclose(gallery.pictures[:5], trained, atol=1e-5)


def test_a_changed_gallery_is_refused(searching):
    search, gallery, catalogue = searching
    gallery.check(catalogue)
    with pytest.raises(ValueError, match="has changed since it was embedded"):
        gallery.check(SimpleNamespace(products=SHOP.products, fingerprint="one picture less"))
    with pytest.raises(ValueError, match="tokens of 53 pictures for 54"):
        s.embed_gallery(search.model, catalogue, TOKENS[1:])


@pytest.mark.parametrize("change, message", [
    ({"captions": ("", " . ")}, "q0: the change is empty"),
    ({"reference": "a hat"}, "'a hat' is not in this gallery of 54 pictures"),
])
def test_questions_that_cannot_be_answered(searching, change, message):
    search, gallery, _ = searching
    query = SimpleNamespace(**vars(asked(1)[0]) | change)
    with pytest.raises(ValueError, match=message):
        search.similarity([query], gallery)


def test_captions_of_another_gallery_are_refused(searching):
    search, gallery, _ = searching
    own = dict(zip(gallery.products, SHOP.texts))
    told = s.with_said(gallery, own, search.model, TOKENIZER, 16)
    assert told.said.shape == (54, 16) and np.allclose(np.linalg.norm(told.said, axis=1), 1, atol=1e-5)
    for wrong in (dict(list(own.items())[1:]), own | {"a hat": "a hat"}):
        with pytest.raises(ValueError, match="captions of another gallery"):
            s.with_said(gallery, wrong, search.model, TOKENIZER, 16)


def test_who_writes_captions_cannot_be_told_the_query():
    "Nothing that it is given holds a query: outputs of pictures, ids, settings."
    given = list(inspect.signature(s.gallery_captions).parameters)
    assert given == ["captioner", "outputs", "products", "settings", "folder", "device", "identity", "style"]


def test_answers_do_not_depend_on_the_batch(searching):
    search, gallery, _ = searching
    all_at_once, _ = search.queries(asked(), gallery)
    by_three, _ = search.queries(asked(), gallery, batch=3)
    assert np.allclose(all_at_once, by_three, atol=1e-5)


def test_alpha_is_the_smallest_of_the_best():
    targets = np.arange(1, 31)
    own = r.Questions(range(60), [0] * 30, targets, range(30), "dress")
    right = np.zeros((30, 60))
    right[np.arange(30), targets] = 1
    noise = np.random.default_rng(0).random((30, 60))
    best, means = r.choose_alpha({"dress": {"image": right, "captions": 0.01 * noise}}, {"dress": own})
    assert best == 0 and means[0] == 100
    best, means = r.choose_alpha({"dress": {"image": 0.9 * noise, "captions": right}}, {"dress": own})
    assert best == 1 and means[1] == 100
    alone = r.assisted({"image": noise, "captions": right}, np.inf)
    assert np.array_equal(alone, right)


def test_a_second_opinion_reorders_the_best_alone(searching):
    search, gallery, _ = searching
    queries = asked(7)
    first = search.similarity(queries, gallery)["image"]
    second = s.reranked(search, queries, gallery, first, top=4, batch=3)
    before, after = (np.argsort(-own, axis=1, kind="stable") for own in (first, second))
    assert np.array_equal(np.sort(before[:, :4]), np.sort(after[:, :4]))
    assert np.array_equal(before[:, 4:], after[:, 4:])
    assert np.allclose(second, s.reranked(search, queries, gallery, first, top=4, batch=7), atol=1e-4)


def test_what_stands_behind_the_best_keeps_its_order_in_half_precision():
    chance = np.random.default_rng(0)
    scores = 20 * chance.normal(size=(8, 530)).clip(-1.5, 1.5)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :16]
    second = scores.copy()
    second[np.arange(8)[:, None], best] += 6 * chance.normal(size=best.shape)
    kept = s.behind_the_best(second, best).astype(np.float16).astype(np.float64)
    assert kept.min() > -100  # no offset that eats the digits
    for row in range(8):
        others = np.setdiff1d(np.arange(530), best[row])
        assert kept[row, best[row]].min() > kept[row, others].max()
        gaps = np.diff(kept[row, others[np.argsort(-scores[row, others])]])
        assert (gaps <= 0).all() and len(np.unique(kept[row, others])) > 200
    assert np.array_equal(s.behind_the_best(second[:, :16], np.tile(np.arange(16), (8, 1))), second[:, :16])


def test_rows_of_several_memory_maps_are_one_array_and_none_is_read_before_it_is_asked(tmp_path):
    whole = np.arange(42, dtype=np.float16).reshape(7, 2, 3)
    for name, part in (("a", whole[:4]), ("none", whole[:0]), ("b", whole[4:])):
        np.save(tmp_path / f"{name}.npy", part)
    rows = Joined([np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("a", "none", "b")])
    assert len(rows) == 7 and all(np.array_equal(rows[row], whole[row]) for row in range(7))
    assert isinstance(rows[5], np.memmap)
    for row in (-1, 7):
        with pytest.raises(IndexError, match=f"row {row} of 7"):
            rows[row]
