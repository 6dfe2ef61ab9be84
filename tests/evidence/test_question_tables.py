"""Verdicts of open questions: made of numbers, silent where the editor is too weak."""

import pytest

from unifashion.evidence.question_tables import (ABOVE, ALL, ALONE, BEST, COSTS, PANELS, POOLED, PROMPT,
                                                 WEIGHED, WINDOWS, ceilings, cost_rows, lines_figure,
                                                 many_figure, shares_figure, shares_table, verdict_on_bad,
                                                 verdict_on_conflict, verdict_on_many)


def cell(protocol, name, metric, value, wide=2):
    return {"protocol": protocol, "row": name, "metric": metric, "value": value, "low": value - wide,
            "high": value + wide}


CONFLICT = [cell("conflict in color conflict", f"2 garments, {way}", metric, value)
            for way, value in ((ALL, 30), (BEST, 8), (WEIGHED, 12))
            for metric in ("of none", "of one of them")]
CONFLICT += [cell("conflict in color conflict", ALONE, "of none", 5),
             cell("conflict in color conflict", ALONE, "of one of them", 95)]


def reached(attribute, value):
    return cell(f"conflict in {attribute} conflict", ALONE, "of the first", value)


def test_the_way_with_the_fewest_blends_is_named():
    told = verdict_on_conflict([*CONFLICT, reached("color", 85)], ("color",))
    assert "alone shows neither's value in 5 (3 to 7) % of pictures, two at once in 30 (28 to 32) %" in told
    assert told.endswith("the best alone in 8 (6 to 10) %.")


def test_ways_that_intervals_do_not_part_are_called_so():
    rows = [row | {"low": row["value"] - 15, "high": row["value"] + 15} for row in CONFLICT]
    told = verdict_on_conflict([*rows, reached("color", 85)], ("color",))
    assert told.endswith("the best alone in 8 (-7 to 23) %, which is not told apart.")


def test_a_weak_editor_answers_nothing():
    told = verdict_on_conflict([*CONFLICT, reached("color", 59)], ("color", "kind"))
    assert "too weak to answer, of one garment alone a reader finds it in 59 %" in told and "30" not in told
    assert "*kind*: no garments that agree with one text differ in it" in told


def test_what_could_be_reached_is_what_is_seen_of_one_garment():
    assert ceilings([*CONFLICT, reached("color", 85), reached("kind", 70)]) == {"color": 85, "kind": 70}


@pytest.mark.parametrize("ten, word", [(20, "That is worse;"), (2, "That is better;"),
                                       (11, "The intervals overlap;")])
def test_more_garments_are_better_worse_or_neither(ten, word):
    rows = [cell("many many", f"3 garments, {PROMPT}", "KD", 10),
            cell("many many", f"10 garments, {POOLED}", "KD", ten),
            cell("many many", f"10 garments, {WINDOWS}", "KD", ten + 1)]
    for name, seconds in ((f"3 garments, {PROMPT}", 2), (f"10 garments, {POOLED}", 5)):
        rows += [cell("many many", name, metric, seconds) for metric in COSTS]
    told = verdict_on_many(rows, 10)
    assert word in told and "takes 2.50 times the seconds and 2.50 times the memory" in told


def test_three_garments_are_not_called_many():
    assert verdict_on_many([], 3) == "Not asked: the database has no more than 3 garments to give."


def test_what_bad_garments_cost():
    rows = [cell("bad: any bad", f"0 % bad, {ALL}", "attributes", 70),
            cell("bad: any bad", f"100 % bad, {ALL}", "attributes", 50),
            cell("bad: any bad", f"100 % bad, {ABOVE}", "attributes", 66)]
    told = verdict_on_bad(rows, ("any",))
    assert "*any*: attributes from 70 (68 to 72) % to 50 (48 to 52) %" in told and "66 (64 to 68) %" in told


def test_figures_draw_what_there_is():
    assert len(shares_figure([*CONFLICT, reached("color", 85)], "t").axes) == 1
    rows = [cell("bad: any bad", f"{share} % bad, {ALL}", "attributes", 70) for share in (0, 100)]
    figure = lines_figure(rows, "attributes", "t")
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 100]


def test_costs_are_told_beside_the_first_turn_by_turn():
    costs = {"1 garment, a": {"seconds": [1., 2., 4.], "memory": 10.},
             "2 garments, a": {"seconds": [3., 4., 4.], "memory": 15.}}
    rows = {(row["row"], row["metric"]): row for row in cost_rows(costs, "many many")}
    slower = rows["2 garments, a", COSTS[0]]
    assert (slower["value"], slower["low"], slower["high"], slower["n"]) == (2, 1, 3, 3)
    assert rows["2 garments, a", COSTS[1]]["value"] == 1.5
    assert rows["1 garment, a", COSTS[0]]["value"] == 1


def test_no_costs_make_no_rows():
    assert cost_rows({}, "many many") == []


def test_shares_stand_in_a_grid_and_gaps_stay_empty():
    rows = [cell("bad: any bad", f"50 % bad, {ALL}", "attributes", 70)]
    first, *others = shares_table(rows, "bad: any", "attributes")
    assert first == {"attributes, with": ALL, "0 % bad": None, "25 % bad": None,
                     "50 % bad": "70.0 (68.0 to 72.0)", "75 % bad": None, "100 % bad": None}
    assert all(own["50 % bad"] is None for own in others)


def test_a_distance_without_an_interval_is_drawn_all_the_same():
    rows = [cell("many many", f"{n} garments, {POOLED}", metric, n) for n in (2, 5) for metric in PANELS]
    rows = [row | {"low": None, "high": None} if row["metric"] == "FD" else row for row in rows]
    figure = many_figure(rows, "t")
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(PANELS)
    assert all(axes.lines[0].get_xdata().tolist() == [2, 5] for axes in figure.axes)
