"""The scoreboard: its picture, its page and its line say what the verdicts are, and no more."""

import sys

from conftest import ROOT
from test_verdicts import OLD, PAGE, REPORT, TOYS, publish

from unifashion.evidence import scoreboard as s
from unifashion.evidence.front_page import Published, read_contents, table_rows_of
from unifashion.evidence.verdicts import COLUMNS, read_failures, run_digest


def test_the_page_of_today_holds_every_claim():
    found = s.scores()
    page = s.scoreboard_page(found, read_failures())
    assert len(page) < 256 << 10
    for score in found:
        assert score.claim.statement in page and score.difference in page
    tables = table_rows_of(page.split("## Every table and figure\n")[1])
    assert [row[""] for row in tables] == [
        f"{item.title}: {item.shows}" for item in read_contents() if item.report != "scoreboard"
    ]


def test_tables_carry_the_mark_of_the_list(tmp_path):
    home = publish(tmp_path)
    cell = f"[1 of 3 claims hold](../../mini/{REPORT}/table.md)"
    row = table_rows_of(s.tables_section(tmp_path).split("\n\n")[1])[0]
    assert row["drawn garments"] == f"{cell}†" and row["real photographs"] == "not run"
    line = f"mini,{REPORT},,full,0123456,2026-11-22,today's,{run_digest(Published(home, {}))}\n"
    (tmp_path / "runs.csv").write_text(",".join(COLUMNS) + "\n" + line)
    assert table_rows_of(s.tables_section(tmp_path).split("\n\n")[1])[0]["drawn garments"] == cell


def test_core_runs_and_words_that_have_changed_are_said(tmp_path):
    publish(tmp_path, page=PAGE + OLD, full=False)
    found = s.scores(tmp_path, TOYS)
    assert "3 seeds, core" in s.verdict_words(found[0]) and s.verdict_words(None) == ""
    page = s.scoreboard_page(found, {}, tmp_path)
    assert "Old is better" in page.split("## Asked no more")[1] and "Nobody has said why." in page
    assert "## Asked no more" not in s.scoreboard_page(s.scores(tmp_path / "none", TOYS), {}, tmp_path / "no")


def test_the_page_holds_every_claim_and_why_what_fails_does(tmp_path):
    publish(tmp_path)
    found = s.scores(tmp_path, TOYS)
    page = s.scoreboard_page(found, {("red", "mini"): "Blue was larger."}, tmp_path)
    assert "Blue was larger." in page and f"[UniFashion, Table 1](../../mini/{REPORT}/table.md)†" in page
    table = page.split("### UniFashion, Table 1: retrieval\n")[1].split(".\n\n", 1)[1]
    rows = {row["claim"]: row for row in table_rows_of(table)}
    assert list(rows) == [toy.statement for toy in TOYS]
    assert rows["Red is better"]["drawn garments"].startswith("**fails**†<br><sub>+1.50 [+1.00, +2.00], 3")
    assert rows["Red is better"]["measured by"].startswith("KD ↓")
    assert rows["Green is better"]["the papers' scale"] == "not run"
    assert rows["Green is better"]["real photographs"] == "", "it is not asked there"
    counts = {row[""]: row for row in table_rows_of(s.counts_table(found))}
    assert [counts["drawn garments"][state] for state in s.STATES] == ["1", "1", "1", "1"]


def test_long_form_has_a_row_a_score_with_the_numbers_of_the_page(tmp_path):
    from unifashion.ground.runs import table_csv

    publish(tmp_path)
    rows = s.score_rows(s.scores(tmp_path, TOYS))
    assert len(rows) == 8 and table_csv(rows).count("\n") == 9
    assert [rows[0][name] for name in ("value", "low", "high", "verdict")] == [2.0, 1.0, 3.0, "holds"]
    assert [rows[1][name] for name in ("value", "status", "scale")] == [None, "not run", ""]


def test_every_system_has_its_status(tmp_path):
    ours = {"row": "ours", "metric": "R@1", "value": 61.0, "seeds": 3, "status": "not comparable"}
    theirs = {"row": "theirs", "metric": "R@1", "reported": 71.0, "status": "not run"}
    publish(tmp_path, rows=[ours, theirs])
    publish(tmp_path, profile="open", rows=[theirs])
    item = next(item for item in read_contents() if item.report == REPORT)
    said = s.systems_section([item], tmp_path).split("Table 1\n\n")[1]
    rows = {row["system"]: list(row.values())[1:] for row in table_rows_of(said)}
    assert rows["ours"] == ["", "not comparable<br><sub>3 seeds</sub>", "", "not run"]
    assert rows["theirs"] == ["yes", "not run", "not run", "not run"]
    mixed = [ours | {"status": "reproduced"}, ours | {"status": "differs"}]
    assert s.system_status(mixed, "ours") == "1 reproduced, 1 differs<br><sub>3 seeds</sub>"
    assert "a rehearsal" not in said
    publish(tmp_path, profile="rehearsal", rows=[ours])
    assert "| a rehearsal |" in s.systems_section([item], tmp_path)


def test_the_picture_has_a_square_a_claim_in_four_looks(tmp_path):
    publish(tmp_path)
    figure = s.scoreboard_figure(s.scores(tmp_path, TOYS))
    axes = figure.axes[0]
    squares = [patch.get_facecolor() for patch in axes.patches]
    assert len(squares) == 8 + len(s.STATES), "one a claim and scale, and the legend's"
    assert len(set(squares)) == 4
    strokes = [line for line in axes.lines if line.get_color() == "white"]
    assert len(strokes) == 2 * (2 + 1), "a cross a failure, a dash where undecided; so, too, in the legend"
    words = [text.get_text() for text in axes.texts]
    assert "1 holds, 1 fails, 1 undecided" in words and "†" in words and words.count("not run") == 3


def test_the_line_of_the_start_page_counts_and_links(tmp_path):
    publish(tmp_path)
    assert s.scoreboard_line(folder=tmp_path).startswith("**Scoreboard (not published)**")
    home = publish(tmp_path, "scoreboard")
    line = s.scoreboard_line("up", tmp_path)
    assert line.startswith("**[Scoreboard](up/outputs/published/mini/scoreboard/table.md)†**")
    assert "The papers' scale: not run." in line and run_digest(Published(home, {}))
    assert s.counts_of(s.scores(tmp_path, TOYS[:1])) == "1 holds, 0 fail, 0 undecided"


def test_a_published_page_links_from_the_root_on_the_site():
    sys.path.insert(0, str(ROOT / ".site"))
    from results import rooted

    text = "[one](../../open/a/table.md), [two](https://x.org/../b), [three](#part)"
    assert rooted(text, "outputs/published/mini/scoreboard") == (
        "[one](outputs/published/open/a/table.md), [two](https://x.org/../b), [three](#part)"
    )
