import subprocess
import sys

import numpy as np
import pytest

from unifashion.ground import core


def test_unknown_profile_lists_the_valid_ones():
    with pytest.raises(ValueError, match="smoke, mini, open, folder, paper"):
        core.load_profile("big")


def test_a_report_reads_only_the_sections_it_names():
    sections = core.load_profile("mini", ("world", "machine"))
    assert sections.world == core.PROFILES["mini"].world
    with pytest.raises(AttributeError, match="'pretrain' is not among"):
        sections.pretrain
    assert set(sections.as_dict()) == {"world", "machine"}
    with pytest.raises(ValueError, match="unknown profile section 'wrld'"):
        core.load_profile("mini", ("wrld",))


@pytest.mark.parametrize("able, expected", [({"avx512_bf16": True}, "bf16"), ({"avx512_bf16": False}, "no"),
                                            ({}, "no")])
def test_bf16_is_for_processors_that_multiply_it(monkeypatch, able, expected):
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert core.pick_dtype("cpu") == expected and core.pick_dtype("cuda") == "bf16"


def test_a_torch_that_cannot_say_what_the_processor_does_trains_in_fp32(monkeypatch):
    import torch

    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert core.pick_dtype("cpu") == "no"


def test_digest_ignores_key_order_and_names_the_type_it_cannot_take():
    assert core.digest({"x": 1, "y": [2]}) == core.digest({"y": (2,), "x": 1})
    assert core.digest(core.World("drawn")) != core.digest(core.World("kagl"))
    assert core.digest(np.int64(3)) == core.digest(3)
    with pytest.raises(TypeError, match="set"):
        core.digest({1, 2})


def test_digest_does_not_depend_on_the_process():
    code = "from unifashion.ground.core import digest, World; print(digest(World('drawn')))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": s, **_env()}
        ).stdout
        for s in ("1", "2")
    }
    assert runs == {core.digest(core.World("drawn")) + "\n"}


def _env():
    import os

    return {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"}


def test_streams_repeat_and_do_not_disturb_each_other():
    first = core.stream(3, "a", 1).random(5)
    core.stream(3, "b").random(100)
    assert (core.stream(3, "a", 1).random(5) == first).all()
    for other in (core.stream(4, "a", 1), core.stream(3, "a", 2), core.stream(3, "a1")):
        assert (other.random(5) != first).all()


def test_paths_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path / "cache"))
    assert core.cache_dir() == tmp_path / "cache" and core.cache_dir().is_dir()
    monkeypatch.delenv("UNIFASHION_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set UNIFASHION_DATA"):
        core.data_dir()
    monkeypatch.setenv("UNIFASHION_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="not a folder"):
        core.data_dir()


def test_a_folder_of_data_is_absolute_and_holds_data(tmp_path, monkeypatch):
    (tmp_path / "data" / "kagl").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFASHION_DATA", "data")
    monkeypatch.setenv("UNIFASHION_CACHE", "kept")
    core.settle_folders()
    monkeypatch.chdir("/")
    assert core.data_dir() == tmp_path / "data" and core.cache_dir() == tmp_path / "kept"
    monkeypatch.setenv("UNIFASHION_DATA", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="empty, which holds none of annotations, ccp"):
        core.data_dir()


def test_the_data_folders_are_those_of_the_data_sets():
    from unifashion.data.datasets import DATASETS

    assert set(core.DATA_FOLDERS) == {record.folder for record in DATASETS.values()} | {"annotations"}


def test_a_home_that_cannot_be_written_is_said(monkeypatch):
    for name in ("UNIFASHION_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    with pytest.raises(PermissionError, match="set UNIFASHION_CACHE"):
        core.cache_dir()


@pytest.mark.parametrize("settings", ["[DEFAULT]\nlib_name = mybook\n", "", "lib_name=unifashion2"])
def test_another_nbdev_project_is_not_this_repository(tmp_path, monkeypatch, settings):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text(settings)
    here = core.repo_root()
    monkeypatch.chdir(tmp_path)
    assert not core.is_clone(tmp_path) and core.repo_root() == here != tmp_path
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = unifashion\n")
    assert core.repo_root() == tmp_path


def test_repo_root_is_found_from_below(monkeypatch):
    root = core.repo_root()
    monkeypatch.chdir(root / "nbs")
    assert core.repo_root() == root and (root / "settings.ini").exists()


def test_seeding_repeats():
    core.seed_everything(5)
    a = np.random.rand()
    core.seed_everything(5)
    assert np.random.rand() == a
