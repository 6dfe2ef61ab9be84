"""Sections of a profile: frozen, named, handed on by core; words beside a setting make no run old."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from unifashion.ground import core, profiles, settings
from unifashion.ground.code_digests import chapters_of


def test_a_setting_is_not_changed_by_the_way():
    pretrain = settings.Pretrain()
    with pytest.raises(FrozenInstanceError):
        pretrain.steps = 1
    assert replace(pretrain, steps=1).steps == 1 and pretrain.steps == 100


def test_an_unknown_setting_is_named():
    with pytest.raises(TypeError, match="stepz"):
        settings.Pretrain(stepz=3)


def test_what_a_profile_has_to_say():
    with pytest.raises(TypeError, match="'world', 'foundations', 'pretrain', and 'evaluation'"):
        settings.Profile("bare")
    with pytest.raises(TypeError, match="dataset"):
        settings.World()


def test_a_profile_is_made_of_all_sections():
    sections = {section.type for section in fields(settings.Profile)[1:]}
    assert sections == {getattr(settings, name) for name in settings.__all__ if name != "Profile"}


def test_core_and_profiles_hand_the_same_classes_on():
    for name in settings.__all__:
        own = getattr(settings, name)
        assert getattr(core, name) is own and getattr(profiles, name) is own
    assert core.PROFILES is profiles.PROFILES and core.rehearsed is profiles.rehearsed


def test_words_beside_settings_change_no_chapters_digest(toy):
    before = chapters_of(["ground.core"])
    for name in ("settings", "profiles"):
        path = toy / "unifashion" / "ground" / f"{name}.py"
        path.write_text(path.read_text() + "\n# one more line\nMORE = 1\n")
    assert list(before) == ["ground.core"] and chapters_of(["ground.core"]) == before
    path = toy / "unifashion" / "ground" / "core.py"
    path.write_text(path.read_text() + "\nMORE = 1\n")
    assert chapters_of(["ground.core"]) != before
