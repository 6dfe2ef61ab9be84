"""The profiles: their names and order, protocols that their data can fill, and the rehearsal of `paper`."""

from dataclasses import fields

import pytest

from unifashion.ground.profiles import PROFILES, rehearsed


def test_profiles_are_found_by_their_own_names_in_order_of_scale():
    assert list(PROFILES) == ["smoke", "mini", "open", "folder", "paper", "rehearsal"]
    assert [profile.name for profile in PROFILES.values()] == list(PROFILES)


@pytest.mark.parametrize("name", ["smoke", "mini"])
def test_a_drawn_test_split_has_as_many_wrong_products_as_are_asked_for(name):
    world, asked = PROFILES[name].world, PROFILES[name].evaluation
    assert asked.negatives < world.test_per_type < world.products


@pytest.mark.parametrize("name", PROFILES)
def test_a_batch_holds_what_itm_and_teachers_see_of_it(name):
    profile = PROFILES[name]
    assert profile.pretrain.itm_rows <= profile.pretrain.batch
    assert max(profile.compose.itm_rows, profile.compose.taught_rows) <= profile.compose.batch


def test_the_full_run_is_never_the_shorter_one():
    for profile in PROFILES.values():
        for section in ("pretrain", "language", "diffusion", "compose", "rag"):
            own = getattr(profile, section)
            assert own.full_steps == 0 or own.full_steps > own.steps, f"{profile.name}: {section}"


def test_the_rehearsal_is_the_papers_code_at_another_size():
    paper, small = PROFILES["paper"], rehearsed(PROFILES["paper"])
    assert small == PROFILES["rehearsal"]
    for section in fields(paper)[1:]:
        was, now = getattr(paper, section.name), getattr(small, section.name)
        for own in fields(was):
            if own.type is str:
                assert getattr(now, own.name) == getattr(was, own.name), f"{section.name}.{own.name}"
    assert small.generator == paper.generator and small.llm == paper.llm
    assert small.pretrain.steps < paper.pretrain.steps and small.rag.steps < paper.rag.steps


def test_what_only_small_scales_need_the_papers_do_without():
    paper = PROFILES["paper"]
    assert (paper.diffusion.align_times, paper.rag.alone_times, paper.generator.decoder_steps) == (1, 0, 0)
