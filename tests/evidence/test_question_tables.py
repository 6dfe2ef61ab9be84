"""Verdicts of open questions: made of numbers, silent where the editor is too weak."""

import pytest

from unifashion.evidence.question_tables import (ABOVE, ALL, BEST, POOLED, PROMPT, WEIGHED, WINDOWS,
                                                 lines_figure, shares_figure, verdict_on_bad,
                                                 verdict_on_conflict, verdict_on_many)


def cell(protocol, name, metric, value, wide=2):
    return {"protocol": protocol, "row": name, "metric": metric, "value": value, "low": value - wide,
            "high": value + wide}


CONFLICT = [cell("conflict in color conflict", f"2 garments, {way}", metric, value)
            for way, value in ((ALL, 30), (BEST, 8), (WEIGHED, 12))
            for metric in ("of none", "of one of them")]


def test_the_way_with_the_fewest_blends_is_named():
    told = verdict_on_conflict(CONFLICT, ("color",), {"color": 85})
    assert "neither's value in 30 (28 to 32) % of pictures, the best alone in 8 (6 to 10) %" in told


def test_a_weak_editor_answers_nothing():
    told = verdict_on_conflict(CONFLICT, ("color", "kind"), {"color": 59, "kind": 90})
    assert "too weak to answer, a reader finds it in 59 %" in told and "30" not in told
    assert "*kind*: no garments differ in it alone" in told


@pytest.mark.parametrize("ten, word", [(20, "That is worse."), (2, "That is better."),
                                       (11, "The intervals overlap.")])
def test_more_garments_are_better_worse_or_neither(ten, word):
    rows = [cell("many many", f"3 garments, {PROMPT}", "KD", 10),
            cell("many many", f"10 garments, {POOLED}", "KD", ten),
            cell("many many", f"10 garments, {WINDOWS}", "KD", ten + 1)]
    assert verdict_on_many(rows, 10).endswith(word)


def test_three_garments_are_not_called_many():
    assert verdict_on_many([], 3) == "Not asked: the database has no more than 3 garments to give."


def test_what_bad_garments_cost():
    rows = [cell("bad: any bad", f"0 % bad, {ALL}", "attributes", 70),
            cell("bad: any bad", f"100 % bad, {ALL}", "attributes", 50),
            cell("bad: any bad", f"100 % bad, {ABOVE}", "attributes", 66)]
    told = verdict_on_bad(rows, ("any",))
    assert "*any*: attributes from 70 (68 to 72) % to 50 (48 to 52) %" in told and "66 (64 to 68) %" in told


def test_figures_draw_what_there_is():
    assert len(shares_figure(CONFLICT, {"color": 80, "kind": 70}, "t").axes) == 2
    rows = [cell("bad: any bad", f"{share} % bad, {ALL}", "attributes", 70) for share in (0, 100)]
    figure = lines_figure(rows, "bad", "attributes", "t")
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 100]
