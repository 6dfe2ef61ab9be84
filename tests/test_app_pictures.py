"""`unifashion embed`, `search` and `caption`: what they print, what they refuse and with which words."""

import pytest
from PIL import Image
from tiny_models import picture, write_parts, write_run, write_shop

from unifashion.app import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Tiny runs of profile smoke, to be named by --model."
    folder = tmp_path_factory.mktemp("tiny")
    vocab = write_parts(folder / "parts").get_vocab_size()
    first = write_run(folder / "core", folder / "parts", vocab)
    (folder / "core/train_language/seed=0/captioner").rename(first / "captioner")
    return first


@pytest.fixture
def ask(runs, capsys):
    "Run a command with the tiny model; gives exit code, output and errors."

    def ask(*words):
        code = main([*map(str, words), "--profile", "smoke", "--model", str(runs)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.strip()

    return ask


@pytest.fixture
def shop(tmp_path):
    write_shop(tmp_path / "shop")
    (tmp_path / "shop/torn.jpg").write_bytes(b"torn")
    return tmp_path / "shop"


def test_embed_encodes_once_and_names_what_is_left_out(ask, shop, runs):
    for new in (4, 0):
        code, out, err = ask("embed", "--catalogue", shop)
        assert code == 0 and not err and len(out) == 2
        assert out[0].startswith("  left out: ") and "torn.jpg" in out[0]
        assert out[1] == f"{shop}: 4 pictures, {new} of them encoded now; model: {runs}"


def test_search_prints_the_first_k_with_scores_and_texts(ask, shop):
    code, out, err = ask("search", "a red dress", "--catalogue", shop, "--k", "2")
    assert code == 0 and not err and len(out) == 3
    rank, score, name, *text = out[1].split()
    assert rank == "1" and -1 <= float(score) <= 1 and name.startswith("images/")
    assert float(out[2].split()[1]) <= float(score) and " ".join(text).startswith("a ")


def test_a_query_that_is_too_long_is_said_to_be_cut(ask, shop):
    _, out, _ = ask("search", "a red dress " * 12, "--catalogue", shop, "--k", "1")
    assert out[1] == "only the first 40 word pieces of the query count" and len(out) == 3


def test_a_picture_finds_itself(ask, shop):
    _, out, _ = ask("search", shop / "images/yellow.jpg", "--catalogue", shop, "--k", "1")
    assert out[1].split()[:3] == ["1", "1.000", "images/yellow.jpg"]


def test_search_writes_a_page(ask, shop, tmp_path):
    code, out, _ = ask("search", "<b>red", "--catalogue", shop, "--html", tmp_path / "found.html")
    page = (tmp_path / "found.html").read_text()
    assert code == 0 and out[-1] == str(tmp_path / "found.html")
    assert page.count("<li>") == 4 and "&lt;b&gt;red" in page and "<b>red" not in page


@pytest.mark.parametrize(
    "words, message",
    [
        (["  "], "the query is empty"),
        (["red", "--k", "0"], "k is the number of pictures to find, from 1; here: 0"),
        (["gone.png"], "gone.png: no such picture"),
        (["red", "--html", "no-such-folder/found.html"], "wanted is a file in a folder that exists"),
    ],
)
def test_search_refuses_before_it_encodes(ask, shop, words, message, monkeypatch):
    monkeypatch.setattr("unifashion.unified.own_pictures.open_search", None)
    code, out, err = ask("search", *words, "--catalogue", shop)
    assert code == 1 and not out and message in err and err.count("\n") == 0


def test_a_folder_without_pictures_and_none_at_all(ask, tmp_path):
    assert "no picture in this folder" in ask("embed", "--catalogue", tmp_path)[2]
    assert "no such folder" in ask("search", "red", "--catalogue", tmp_path / "gone")[2]


def test_shards_one_at_a_time_are_made_once_and_searched(ask, shop, runs):
    whole = ask("search", "a red dress", "--catalogue", shop)[1][1:]
    made = []
    for _ in range(2):
        for number in (1, 0):
            code, out, err = ask("embed", "--catalogue", shop, "--shards", "2", "--shard", number)
            assert code == 0 and not err and f"{shop}: shard {number} of 2, " in out[-1]
            made.append(int(out[-1].split(" of them encoded")[0].rsplit(" ", 1)[1]))
    assert sum(made[:2]) == 4 and made[2:] == [0, 0]
    code, out, _ = ask("search", "a red dress", "--catalogue", shop)
    assert code == 0 and [line.split()[2] for line in out] == [line.split()[2] for line in whole]
    assert [line.split()[3:] for line in out] == [line.split()[3:] for line in whole]  # their texts
    Image.fromarray(picture("blue", 70, 50)).save(shop / "images/red.jpg")
    _, out, _ = ask("search", "a red dress", "--catalogue", shop)
    renew = f"renew it with: unifashion embed --catalogue {shop}"
    told = f"  changed since it was encoded: images/red.jpg; {renew} --model "
    assert len(out) == 5 and out[4].startswith(told)


def test_all_shards_are_jobs_and_then_there_is_nothing_to_do(ask, shop, runs):
    ask("embed", "--catalogue", shop, "--shards", "2", "--shard", "0")
    for waiting in (1, 0):
        code, out, err = ask("embed", "--catalogue", shop, *(["--shards", "2"] * waiting))
        assert code == 0 and not err, err
        assert out[0] == f"{shop}: {waiting} of 2 shards to embed" and "torn.jpg" in out[1]
        assert out[-1] == f"{shop}: 4 pictures in 2 shards, {waiting} of them made now; model: {runs}"


@pytest.mark.parametrize("words, message", [
    (["--shard", "0"], "--shard is one of how many? Name --shards, too"),
    (["--shards", "2", "--shard", "2"], "there is no shard 2: the 2 of"),
    (["--shards", "3", "--shard", "0"], "is embedded in 2 shards, not in 3"),
    (["--shards", "0"], "a folder has 1 to 99999 shards; here: 0"),
    (["--shards", "2", "--cores", "-1"], "cores are counted from 1, 0 means all; here: -1"),
    (["--shards", "2", "--cluster", "nowhere"], "--cluster nowhere holds no config.yaml"),
])
def test_embed_refuses_what_cannot_be(ask, shop, words, message):
    ask("embed", "--catalogue", shop, "--shards", "2", "--shard", "1")
    code, out, err = ask("embed", "--catalogue", shop, *words)
    assert code == 1 and not out and message in err and err.count("\n") == 0


def test_a_search_of_half_a_catalogue_names_the_shards_that_lack(ask, shop):
    ask("embed", "--catalogue", shop, "--shards", "2", "--shard", "1")
    code, _, err = ask("search", "red", "--catalogue", shop)
    assert code == 1 and "1 of the 2 shards of" in err and "are not embedded: 0; make them with" in err
    other = shop.parent / "other"
    write_shop(other)
    assert "which a fast search needs" in ask("search", "red", "--catalogue", other, "--fast")[2]


def test_jobs_that_fail_are_named(ask, shop, monkeypatch):
    monkeypatch.setattr("unifashion.own_commands.sys.executable", "false")
    code, _, err = ask("embed", "--catalogue", shop, "--shards", "2")
    assert code == 1 and "shards 0 to 1 of 2 are not finished" in err and "snakemake.log" in err


def test_captions_of_files_and_folders(ask, shop):
    code, out, err = ask("caption", shop / "images/red.jpg", shop, "--style", "short")
    assert code == 0 and not err and len(out) == 6
    assert out[0].startswith(f"{shop / 'images/red.jpg'}: ") and sorted(out[1:5]) == out[1:5]
    assert "torn.jpg" in out[5]


def test_captions_of_nothing(ask, shop):
    assert ask("caption", shop / "torn.jpg")[0] == 1
    assert "name the pictures" in ask("caption")[2]
    code, _, err = ask("caption", shop / "images/red.jpg", "--style", "terse")
    assert code == 1 and "unknown style 'terse'" in err and "short, professional" in err


def test_commands_without_runs_name_what_makes_them(toy, shop, capsys):
    for command, report in (("search red --catalogue", "train_pretrain"), ("caption", "train_language")):
        assert main([*command.split(), str(shop), "--profile", "open"]) == 1
        assert f"make reproduce ONLY={report} PROFILE=open" in capsys.readouterr().err


def test_an_unknown_profile_lists_those_there_are(shop, capsys):
    assert main(["embed", "--catalogue", str(shop), "--profile", "tiny"]) == 1
    assert "smoke, mini, open, folder, paper" in capsys.readouterr().err
