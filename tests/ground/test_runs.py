"""Keys see what changes a result and nothing else; runs write whole files and honest records."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import write_report

from unifashion.ground import circumstances, code_digests, files, runs
from unifashion.ground.code_digests import chapters_of, code_hash
from unifashion.ground.keys import plan, read_header


@pytest.fixture
def chain(toy):
    """train (a seed) -> table, and a figure of another section;
    a chapter `toys` of its own, on one two wings down."""
    (toy / "unifashion" / "models" / "toys.py").write_text(
        '"""Toys."""\nfrom ..wardrobe.paint import red\ndef toy(n):\n    "A toy."\n    return red(n)\n'
    )
    (toy / "unifashion" / "wardrobe" / "paint.py").write_text("def red(n): return n + 1\n")
    write_report(
        toy,
        "train_toy",
        "x = toy(1)",
        sections=("world", "pretrain"),
        seeds="seed",
        head="from unifashion.models.toys import toy",
    )
    write_report(
        toy, "table_toy", "run.input('train_toy', 0)", sections=("evaluation",), after=("train_toy",)
    )
    write_report(
        toy, "figure_toy", "canvas()", sections=("world",), head="from unifashion.ground.show import canvas"
    )
    return toy


def keys_now(**options):
    return {node.name: node.key() for node in plan("smoke", **options)}


def changed(before):
    return sorted(name for name, key in keys_now().items() if before.get(name) != key)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_prose_and_style_rerun_nothing(chain):
    before = keys_now()
    edit(chain / "unifashion" / "models" / "toys.py", '"A toy."', '"A better toy, explained at length."')
    edit(chain / "unifashion" / "models" / "toys.py", "return red(n)", "return red(n)  # red")
    edit(chain / "unifashion" / "ground" / "show.py", "return ", "return  ")
    with open(chain / "unifashion" / "ground" / "show.py", "a") as file:
        file.write("\nPALETTE['ours'] = '#000000'\n")
    write_report(
        chain,
        "figure_toy",
        "canvas()",
        sections=("world",),
        head="from unifashion.ground.show import canvas",
        prose="New words.",
    )
    edit(chain / "nbs" / "reports" / "train_toy.ipynb", "seed: int = 0", "seed: int = 5")
    assert changed(before) == []


def test_a_chapters_code_reruns_what_imports_it_and_what_follows(chain):
    before = keys_now()
    edit(
        chain / "unifashion" / "wardrobe" / "paint.py", "n + 1", "n + 2"
    )  # imported by a chapter that the report imports
    assert changed(before) == ["table_toy", "train_toy seed=0"]


def test_settings_rerun_those_that_read_them(chain):
    before, ground = keys_now(), chain / "unifashion" / "ground"
    settings, profiles = ground / "settings.py", ground / "profiles.py"
    program = "from unifashion.ground.keys import plan; print({n.name: n.key() for n in plan('smoke')})"
    # -B: two edits of one second and one size would leave the first one's bytecode in use
    now = lambda: eval(
        subprocess.run(
            [sys.executable, "-B", "-c", program], capture_output=True, text=True, check=True, cwd=chain
        ).stdout
    )
    assert now() == before
    edit(settings, "steps: int = 100", "fresh: int = 3\n    steps: int = 100")  # a new setting of `pretrain`
    assert sorted(k for k in before if now()[k] != before[k]) == ["table_toy", "train_toy seed=0"]
    edit(settings, "fresh: int = 3\n    steps: int = 100", "steps: int = 100")
    edit(profiles, "bootstrap=200", "bootstrap=201")
    assert [k for k in before if now()[k] != before[k]] == ["table_toy"]
    edit(profiles, "bootstrap=201", "bootstrap=200")
    edit(settings, "workers: int = 2", "workers: int = 3")  # a section that no report names
    assert now() == before
    edit(
        chain / "unifashion" / "ground" / "core.py", "def stream(", "def stream_of("
    )  # code, not settings: `toys` does not import core, so nothing reads it
    assert now() == before


def test_parameters_data_and_upstream_are_in_the_key(chain):
    before = keys_now()
    assert (
        keys_now(seeds="0 1")["table_toy"] != before["table_toy"]
        and keys_now(seeds="0 1")["train_toy seed=0"] == before["train_toy seed=0"]
    )
    assert keys_now(full=True)["train_toy seed=0"] != before["train_toy seed=0"]
    core, full = plan("smoke"), plan("smoke", full=True, seeds="0")
    assert [n.key("full") for n in core] == [n.key("full") for n in full]
    (chain / "data").mkdir()
    (chain / "data" / "reported.csv").write_text("a,b\n")
    write_report(
        chain,
        "figure_toy",
        "canvas()",
        sections=("world",),
        data=("data/reported.csv",),
        head="from unifashion.ground.show import canvas",
    )
    with_data = keys_now()
    (chain / "data" / "reported.csv").write_text("a,c\n")
    assert changed(with_data) == ["figure_toy"]
    (chain / "data" / "reported.csv").unlink()
    with pytest.raises(FileNotFoundError, match="reported.csv is missing"):
        keys_now()


def test_real_data_is_named_when_missing(chain, monkeypatch):
    monkeypatch.delenv("UNIFASHION_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set UNIFASHION_DATA"):
        plan("open", only=("figure_toy",))[0].key()


def test_a_mistyped_folder_of_data_is_no_folder_without_data(chain, monkeypatch):
    write_report(chain, "figure_toy", data=("$UNIFASHION_DATA/annotations",), sections=())
    monkeypatch.delenv("UNIFASHION_DATA", raising=False)
    without = plan("open", only=("figure_toy",))[0].key()
    monkeypatch.setenv("UNIFASHION_DATA", "data/mistyped")
    with pytest.raises(FileNotFoundError, match="mistyped, which is not a folder"):
        plan("open", only=("figure_toy",))[0].key()
    (chain / "data" / "mistyped").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="mistyped, which holds none of"):
        plan("open", only=("figure_toy",))[0].key()
    (chain / "data" / "mistyped" / "kagl").mkdir()
    assert plan("open", only=("figure_toy",))[0].key() == without


def test_a_letter_changed_in_a_large_folders_table_is_seen(chain, monkeypatch):
    folder = chain / "data" / "folder"
    (folder / "images").mkdir(parents=True)
    for n in range(201):  # so many that of the pictures sizes alone count
        (folder / "images" / f"{n}.jpg").write_bytes(b"")
    (folder / "catalogue.csv").write_text("image,text\n0.jpg,red\n")
    monkeypatch.setenv("UNIFASHION_DATA", "data")
    before = plan("folder", only=("figure_toy",))[0].key()
    assert plan("folder", only=("figure_toy",))[0].key() == before
    (folder / "catalogue.csv").write_text("image,text\n0.jpg,tan\n")
    assert plan("folder", only=("figure_toy",))[0].key() != before
    (folder / "catalogue.csv").unlink()
    with pytest.raises(FileNotFoundError, match="catalogue.csv is missing"):
        plan("folder", only=("figure_toy",))[0].key()


@pytest.mark.parametrize("seeds", ["-1", "a", "", " ", "0 0", "0,1", "1.5", str(1 << 32), [], [0, -1], True])
def test_seeds_that_are_none_are_refused(chain, seeds):
    with pytest.raises(ValueError, match="seeds are whole numbers from 0, each once"):
        plan("smoke", seeds=seeds)
    assert [node.seed for node in plan("smoke", seeds="2 0", only=("train_toy",))] == [2, 0]


def test_values_are_taken_as_they_are_written(chain):
    report = chain / "nbs/reports/train_toy.ipynb"
    edit(report, "full: bool = False", "full: bool = False\\ntext: str = \\\"\\\"\\nsteps: int = 1")
    values = "a, b  #c 'd' \"e\" =f\\\n$HOME ü雪😀"
    node = plan("smoke", only=("train_toy",), words=[f"text={values}", "steps=2"])[-1]
    assert node.parameters["text"] == values and node.parameters["steps"] == 2
    refused = {"steps": "name=value; here: 'steps'", "seed=1": "--seeds", "profile=open": "--profile"}
    for word, said in refused.items():
        with pytest.raises(ValueError, match=said):
            plan("smoke", only=("train_toy",), words=[word])


def test_unknown_names_list_the_valid_ones(chain):
    with pytest.raises(ValueError, match="unknown profile 'tiny'; choose one of smoke, mini, open, folder"):
        plan("tiny")
    with pytest.raises(
        ValueError, match="unknown report 'table9'; there are figure_toy, table_toy, train_toy"
    ):
        plan("smoke", only=("table9",))
    with pytest.raises(ValueError, match="seeds are whole numbers"):
        plan("smoke", seeds="zero")
    with pytest.raises(ValueError, match="train_toy has no parameter 'sed'; it takes none"):
        plan("smoke", only=("train_toy",), words=["sed=1"])
    with pytest.raises(ValueError, match="full has an option of its own: --full"):
        plan("smoke", only=("train_toy",), words=["full=perhaps"])
    with pytest.raises(ValueError, match="are set for one report"):
        plan("smoke", words=["full=1"])
    write_report(chain, "table_a", after=("table_b",))
    write_report(chain, "table_b", after=("table_a",))
    with pytest.raises(ValueError, match="table_a -> table_b -> table_a"):
        plan("smoke")


def test_headers_are_checked(toy):
    write_report(toy, "table_x", "x = (")
    with pytest.raises(SyntaxError, match="table_x.ipynb, code cell 3"):
        read_header(toy / "nbs/reports/table_x.ipynb")
    write_report(toy, "table_x", "import unifashion.nothing")
    with pytest.raises(ModuleNotFoundError, match="unifashion.nothing"):
        read_header(toy / "nbs/reports/table_x.ipynb")
    write_report(toy, "table_x", "sections = ()\nbegin('table_x', sections=sections)")
    with pytest.raises(ValueError, match="calls begin.. once"):
        read_header(toy / "nbs/reports/table_x.ipynb")
    write_report(toy, "table_x")
    edit(toy / "nbs/reports/table_x.ipynb", "sections=('world',)", "sections=names")
    with pytest.raises(ValueError, match="literals"):
        read_header(toy / "nbs/reports/table_x.ipynb")
    (toy / "nbs/reports/table_x.ipynb").rename(toy / "nbs/reports/table_y.ipynb")
    edit(toy / "nbs/reports/table_y.ipynb", "sections=names", "sections=()")
    with pytest.raises(ValueError, match="names it 'table_x'"):
        read_header(toy / "nbs/reports/table_y.ipynb")


def test_code_hash_is_the_same_on_every_python(toy):
    "A foundation's card carries the hash of the drawing code; another Python must not make it look stale."
    source = (
        "def f(x: int = 0, /, *a, **k):\n    'doc'\n    match x:\n        case 1: return f'{x:>{3}} {x!r}' "
        "'b'\n    return [y for y in a if (z := y)]\nclass A(object): b = None\n"
    )
    (toy / "unifashion" / "toys.py").write_text(source)
    assert code_hash(["toys"], toy / "unifashion") == "d76216973f05c925"
    assert list(chapters_of(["toys"], toy / "unifashion")) == ["toys"]


def test_a_module_is_read_once_and_a_cache_that_fails_is_no_hindrance(toy, monkeypatch):
    def asked():
        code_digests._module.cache_clear()  # as in another process
        return chapters_of(["toys"], toy / "unifashion")

    (toy / "unifashion" / "toys.py").write_text("from .ground import core\nX = 1\n")
    first = asked()
    kept = {path: path.read_bytes() for path in (toy.parent / "cache" / "code").iterdir()}
    assert list(first) == ["ground.core", "toys"] and len(kept) == 2
    with monkeypatch.context() as patch:
        patch.setattr(code_digests, "analysed", None)  # whoever asked it would fail
        assert asked() == first
    for path in kept:
        path.write_text("{")  # half a file
    assert asked() == first and {path: path.read_bytes() for path in kept} == kept
    monkeypatch.setenv("UNIFASHION_CACHE", str(toy / "settings.ini"))  # no folder
    assert asked() == first
    (toy / "unifashion" / "toys.py").write_text("from .ground import core\nX = 2\n")
    assert asked()["toys"] != first["toys"]


def test_files_are_whole_or_absent(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"x": object()})
    with pytest.raises(TypeError):
        files.atomic_write(tmp_path / "a.json", 3)
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1} and os.listdir(tmp_path) == ["a.json"]


def test_arrays_keep_types_and_bytes(tmp_path):
    values = {
        "s": np.arange(6, dtype=np.float16).reshape(2, 3).T,
        "ids": ["a", "é"],
        "n": np.array([], np.int64),
    }
    one, two = (
        files.save_arrays(tmp_path / "1", values).read_bytes(),
        files.save_arrays(tmp_path / "2", values).read_bytes(),
    )
    back = files.load_arrays(tmp_path / "1")
    assert (
        one == two
        and back["s"].dtype == np.float16
        and back["s"].shape == (3, 2)
        and (back["s"] == values["s"]).all()
    )
    assert back["ids"].tolist() == ["a", "é"] and back["n"].dtype == np.int64


def test_table_csv_checks_rows():
    row = {"row": "ours", "metric": "R@1", "value": np.float32(0.5), "status": "not comparable", "N_r": 3}
    assert runs.table_csv([row]).splitlines()[1] == ",,ours,,R@1,,0.5,,,,,,not comparable,3"
    with pytest.raises(ValueError, match="choose one of reproduced"):
        runs.table_csv([row | {"status": "fine"}])
    with pytest.raises(ValueError, match="names no metric"):
        runs.table_csv([row | {"metric": ""}])


def test_a_run_reads_what_its_header_names(chain):
    with pytest.raises(ValueError, match="save the notebook"):
        runs.begin("figure_toy", profile="smoke", seeds="0", full=False, sections=("world", "machine"))
    with pytest.raises(ValueError, match="takes each of its parameters: profile, seeds, full"):
        runs.begin("figure_toy", profile="smoke", seeds="0", sections=("world",))
    run = runs.begin(
        "table_toy", profile="smoke", seeds="0", full=False, sections=("evaluation",), after=("train_toy",)
    )
    with pytest.raises(AttributeError, match="'world' is not among"):
        run.profile.world
    with pytest.raises(ValueError, match="does not name"):
        run.input("figure_toy")
    with pytest.raises(ValueError, match="asks for seed 3"):
        run.input("train_toy", 3)
    with pytest.raises(FileNotFoundError, match="unifashion reproduce train_toy --profile smoke --seeds 0"):
        run.input("train_toy", 0)


def test_records_and_inputs(chain, capsys):
    train = runs.begin("train_toy", profile="smoke", seed=0, full=False, sections=("world", "pretrain"))
    with train.stage("work"):
        train.arrays("s", {"s": np.ones(2)})
    train.record(device="cuda", dtype="bf16", steps=np.int64(3))
    made = train.finish()
    wanted = (
        "notebook notebook_sha256 key parameters profile commit dirty packages device dtype threads "
        "fp32_gflops seconds stages peak_memory_mib inputs outputs"
    )
    assert (
        set(wanted.split()) <= set(made)
        and made["device"] == "cuda"
        and made["steps"] == 3
        and list(made["outputs"]) == ["s.safetensors"]
    )
    table = runs.begin(
        "table_toy", profile="smoke", seeds="0", full=False, sections=("evaluation",), after=("train_toy",)
    )
    assert files.load_arrays(table.input("train_toy", 0) / "s.safetensors")["s"].sum() == 2
    assert list(table.finish()["inputs"]) == ["train_toy seed=0"]
    edit(chain / "unifashion" / "wardrobe" / "paint.py", "n + 1", "n + 3")
    capsys.readouterr()
    runs.begin(
        "table_toy", profile="smoke", seeds="0", full=False, sections=("evaluation",), after=("train_toy",)
    ).input("train_toy")
    assert "come from other code or settings" in capsys.readouterr().out


def test_full_takes_over_the_checkpoints_of_the_core_run(chain):
    folders = [
        runs.begin("train_toy", profile="smoke", seed=0, full=full, sections=("world", "pretrain")).scratch(
            "ours"
        )
        for full in (False, True)
    ]
    other = runs.begin(
        "train_toy", profile="smoke", seed=1, full=True, sections=("world", "pretrain")
    ).scratch("ours")
    assert folders[0] == folders[1] != other and folders[0].is_dir()


@pytest.fixture
def other_repository(tmp_path):
    "A repository with one commit, and in it an unpacked download of something else."
    folder = tmp_path / "other"
    (folder / "download" / "nbs").mkdir(parents=True)
    (folder / "file").write_text("")
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "file"], [*own, "commit", "-qm", "one"]):
        if shutil.which("git") is None:
            pytest.skip("git is absent")
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


def test_git_speaks_of_this_repository_alone(other_repository, monkeypatch):
    commit, dirty = circumstances.git_state(other_repository)
    assert len(commit) == 40 and dirty is False
    assert circumstances.git_state(other_repository / "download") == (None, None)
    monkeypatch.setenv("GIT_DIR", str(other_repository / "nothing"))
    assert circumstances.git_state(other_repository) == (commit, False)
    (other_repository / "data").mkdir()
    (other_repository / "data" / "new").write_text("")
    assert circumstances.git_state(other_repository) == (commit, True)
    monkeypatch.setenv("PATH", str(other_repository))
    assert circumstances.git_state(other_repository) == (None, None)


def test_publishing_takes_finished_runs_and_small_files(chain):
    node = plan("smoke", only=("figure_toy",))[0]
    with pytest.raises(FileNotFoundError, match="not finished"):
        runs.publish(node)
    node.folder.mkdir(parents=True)
    for name, size in (("fig_a.png", 9), ("weights.safetensors", 9)):
        (node.folder / name).write_bytes(b"x" * size)
    (node.folder / "executed.ipynb").write_text('{"cells": []}')
    (node.folder / "run.json").write_text('{"parameters": {"full": false}}')
    node.stamp.touch()
    assert sorted(p.name for p in runs.publish(node).iterdir()) == ["executed.ipynb", "fig_a.png", "run.json"]
    (node.folder / "fig_a.png").unlink()
    assert sorted(p.name for p in runs.publish(node).iterdir()) == [
        "executed.ipynb",
        "run.json",
    ]  # nothing of an older run stays
    published = chain / "outputs/published/smoke/figure_toy/run.json"
    published.write_text('{"parameters": {"full": true}}')
    with pytest.raises(ValueError, match="holds a full run"):
        runs.publish(node)
    published.write_text('{"parameters": {"full": false}}')
    (node.folder / "fig_b.png").write_bytes(b"x" * (81 << 10))
    with pytest.raises(ValueError, match="fig_b.png weighs 81 KiB, over 80"):
        runs.publish(node)
    assert not (chain / "outputs/published/smoke/figure_toy/fig_b.png").exists()


def test_links_of_a_published_notebook_lead_to_the_same_chapters(chain):
    node = plan("smoke", only=("figure_toy",))[0]
    node.folder.mkdir(parents=True)
    links = "[a](../1_wardrobe/01_paint.ipynb#here) [b](other.ipynb)\n[c](https://x.example/d.ipynb) [d](#e)"
    cells = [{"cell_type": kind, "source": links.splitlines(keepends=True)} for kind in ("markdown", "code")]
    (node.folder / "executed.ipynb").write_text(json.dumps({"cells": cells}))
    (node.folder / "run.json").write_text('{"parameters": {"full": false}}')
    node.stamp.touch()
    prose, code = json.loads((runs.publish(node) / "executed.ipynb").read_text())["cells"]
    assert "".join(prose["source"]) == (
        "[a](../../../../nbs/1_wardrobe/01_paint.ipynb#here) [b](../../../../nbs/reports/other.ipynb)\n"
        "[c](https://x.example/d.ipynb) [d](#e)"
    )
    assert code == cells[1]
