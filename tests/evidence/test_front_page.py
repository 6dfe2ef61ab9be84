"""The front page: it says what is published, what fails and what is old, and nothing that nobody ran."""

import contextlib
import json
import os
import re

import pytest
from conftest import ROOT

from unifashion.evidence import front_page as f
from unifashion.ground.core import load_profile

CLAIMS = """# A table

### Claims

| claim | source | protocol | difference, points | verdict |
| --- | --- | --- | --- | --- |
| Long \\| wide is better | Table 1 | toy_100 | +2.00 [+1.00, +3.00] | holds |
| Red is better | Table 1 | toy_100 | -1.50 [-2.00, -1.00] | fails |
| Red is better | Table 1 | toy_full | -2.50 [-3.00, -2.00] | fails |
| Blue is better | Table 1 | toy_100 | +0.10 [-0.20, +0.40] | undecided |
| Green is better | Table 1 | toy_100 |  | undecided (not run: green) |

### Something else

| claim | difference, points | verdict |
| --- | --- | --- |
| Not a claim of this table | -9.00 [-9.00, -9.00] | fails |
"""


def publish(folder, report, profile="mini", page=CLAIMS, seed=None, current=False, **facts):
    "A published run with a page, under a key that is today's where `current`."
    home = folder / profile / report / (f"seed={seed}" if seed is not None else "")
    home.mkdir(parents=True)
    given = {"profile": profile, "seeds": "0", "full": False}
    if seed is not None:
        given = {"profile": profile, "seed": seed, "full": False}
    record = {
        "report": report,
        "parameters": given,
        "key": "0" * 16,
        "code": {},
        "profile": {},
        "inputs": {"train_pretrain seed=0": "0" * 16},
        "commit": "0123456789abcdef",
        "started": "2026-11-22T01:22:27+00:00",
        "seconds": 600.0,
        "peak_memory_mib": 512.0,
    }
    if current:
        node = f.todays_node(record)
        record["profile"] = load_profile(profile, node.header.sections).as_dict()
        record["code"] = f.chapters_of(node.header.modules)
        record["report_code"] = f.digest([report, node.header.code])
        if profile != "open":
            record["key"] = node.key()
    (home / "run.json").write_text(json.dumps(record | facts))
    if page:
        (home / "table.md").write_text(page)
    return f.published(report, profile, folder)[-1]


def rows_of(markdown):
    return {row[""].split(":")[0]: row for row in f.table_rows_of(markdown)}


# --- what there is to reproduce


def test_every_report_that_makes_a_table_or_figure_stands_in_the_contents():
    items = f.read_contents()
    makes = {path.stem for path in (ROOT / "nbs" / "reports").glob("*.ipynb")}
    makes = {name for name in makes if not name.startswith(("train_", "tune_"))}
    assert makes <= {item.report for item in items}
    tables = [item.name for item in items if item.paper == "UniFashion"]
    numbers = [int(n) for name in tables for n in re.findall(r"\d+", name)]
    assert sorted(numbers) == sorted([*range(1, 9), *range(1, 9)]), "Tables 1 to 8 and Figures 1 to 8"
    assert {item.paper for item in items} == {"UniFashion", "Fashion-RAG", "Added here"}


@pytest.mark.parametrize(
    "line, words",
    [
        ("UniFashion,Table 1,retrieval", "line 2: not four"),
        ("UniFashion,Table 1,,table1", "line 2: not four"),
        ("U,Table 1,a,one\nU,Table 1,b,two", "line 3: U, Table 1 is there twice"),
    ],
)
def test_contents_that_are_incomplete_are_refused(tmp_path, line, words):
    path = tmp_path / "contents.csv"
    path.write_text(f"paper,item,shows,report\n{line}\n")
    with pytest.raises(ValueError, match=f"contents.csv, {words}"):
        f.read_contents(path)
    path.write_text("paper,item\n")
    with pytest.raises(ValueError, match="its columns are not"):
        f.read_contents(path)


# --- what is old


def test_a_run_is_current_while_its_key_is_todays(tmp_path):
    new = publish(tmp_path, "figure4_words", current=True)
    assert f.is_current(new)
    for facts in ({"key": "1" * 16}, {"report": "table0_gone"}, {"parameters": {"profile": "no_such"}}):
        assert not f.is_current(f.Published(new.folder, new.record | facts))


def test_a_run_of_real_photographs_is_judged_without_them(tmp_path, monkeypatch):
    monkeypatch.delenv("UNIFASHION_DATA", raising=False)
    new = publish(tmp_path, "table1_cross_modal_retrieval", "open", current=True)
    assert f.is_current(new, tmp_path)
    assert not f.is_current(f.Published(new.folder, new.record | {"code": {"ground.core": "x"}}), tmp_path)
    assert not f.is_current(f.Published(new.folder, new.record | {"profile": {}}), tmp_path)
    assert not f.is_current(f.Published(new.folder, new.record | {"report_code": "0" * 16}), tmp_path)
    publish(tmp_path, "train_pretrain", "open", page="", seed=0)  # of other code: what was read is old
    assert not f.is_current(new, tmp_path)


def test_what_is_old_is_marked_and_named(tmp_path):
    publish(tmp_path, "figure4_words", page="# words", current=True)
    assert f.earlier_runs(tmp_path) == "" and f.EARLIER not in f.contents_table(folder=tmp_path)
    publish(tmp_path, "table1_cross_modal_retrieval")
    publish(tmp_path, "table2_captioning")
    assert "`0123456`, run on 2026-11-22: UniFashion, Table 1 (drawn garments), UniFashion, Table 2" in (
        f.earlier_runs(tmp_path)
    )
    rows = rows_of(f.contents_table(folder=tmp_path))
    assert [f.EARLIER in rows[name]["drawn garments"] for name in ("Table 1", "Figure 4")] == [True, False]


# --- what fails


def test_claims_are_read_as_the_page_has_them(tmp_path):
    found = f.verdicts_of(publish(tmp_path, "table1_cross_modal_retrieval"))
    claims = [row["claim"] for row in found]
    assert claims == ["Long | wide is better", "Red is better", "Red is better", "Blue is better"]
    assert found[1]["difference"] == "-1.50 [-2.00, -1.00]"
    page = publish(tmp_path, "figure4_words", page="# no claims")
    bare = publish(tmp_path, "audit", page="")
    assert f.verdicts_of(page) == [] and f.verdicts_of(bare) == [] and bare.page.name == "executed.ipynb"


def test_each_failing_claim_is_said_once_with_all_its_differences(tmp_path):
    assert f.failing_claims(folder=tmp_path) == "None of the claims that were tested fails."
    publish(tmp_path, "table1_cross_modal_retrieval")
    publish(tmp_path, "table1_cross_modal_retrieval", "open", page=CLAIMS.replace("toy", "kagl"))
    (line,) = f.failing_claims("..", tmp_path).split("\n")
    assert line.count("Red is better") == 1 and line.count("-2.50 [-3.00, -2.00] on `") == 2
    assert "(../outputs/published/open/table1_cross_modal_retrieval/table.md)" in line
    assert "Not a claim" not in line and "Blue" not in line
    table = f.table_rows_of(f.claims_glance("table1_cross_modal_retrieval", tmp_path))
    assert [row["claim"] for row in table] == ["Long | wide is better", "Red is better", "Blue is better"]
    assert table[1]["real photographs†, kagl_full"].startswith("fails")


def test_some_rows_are_left_to_the_tables_own_page(tmp_path, monkeypatch):
    table = "| System | R |\n| --- | --- |\n| ours | 2 |\n| ours, w/o cap | 1 |\n| w/o a picture | 0 |\n"
    monkeypatch.setattr(f, "at_a_glance", lambda *given: table)
    assert f.glance("table1_cross_modal_retrieval", "R", tmp_path) == table
    told = f.table_rows_of(f.glance("table1_cross_modal_retrieval", "R", tmp_path, but="ours, w/o"))
    assert [row["System"] for row in told] == ["ours", "w/o a picture"]


# --- what is made


def test_states_of_what_is_made_and_not_run(tmp_path):
    publish(tmp_path, "table1_cross_modal_retrieval")
    rows = rows_of(f.contents_table("up", tmp_path))
    made = "[1 of 4 claims hold](up/outputs/published/mini/table1_cross_modal_retrieval/table.md)"
    assert list(rows["Table 1"].values())[1:] == [made + f.EARLIER + " (core)", "not run", "not run"]
    assert list(rows["Table 3"].values())[1:] == ["not run"] * 3
    assert list(rows["Table 4"].values())[1:] == ["not run"] * 3
    assert list(rows["Table 5"].values())[1:] == ["not run"] * 3
    assert list(rows["Figure 1"].values())[1:] == ["not run"] * 3
    assert list(rows["**Fashion-RAG**"].values())[1:] == [""] * 3


def test_core_is_said_of_what_was_trained_and_of_nothing_else(tmp_path):
    publish(tmp_path, "table7_8_tasks", page="")
    publish(tmp_path, "audit", page="", inputs={})
    rows = rows_of(f.contents_table("up", tmp_path))
    assert "(core)" in rows["Tables 7 and 8"]["drawn garments"]
    assert rows["Audit"]["drawn garments"].startswith("[made]") and "core" not in str(rows["Audit"])


def test_profiles_say_what_was_measured_and_no_more(tmp_path):
    publish(tmp_path, "train_pretrain", page="", seed=0)
    publish(tmp_path, "train_pretrain", page="", seed=1, peak_memory_mib=2048.0)
    rows = {row["profile"]: row for row in f.table_rows_of(f.profiles_table(tmp_path))}
    assert list(rows) == [f"`{name}`" for name in f.PROFILES]
    assert (rows["`mini`"]["published runs"], rows["`mini`"]["peak memory"]) == ("2 in 20 min", "2.0 GiB")
    assert rows["`paper`"]["published runs"] == rows["`smoke`"]["peak memory"] == "not run"


def test_every_chapter_is_linked_and_every_wing_says_what_it_teaches(tmp_path):
    links = re.findall(r"\]\(([^)]+)\)", f.chapter_links())
    there = (ROOT / "nbs").glob("[0-9]_*/[0-9]*.ipynb")
    assert links == sorted(path.relative_to(ROOT / "nbs").as_posix() for path in there)
    assert len(f.table_rows_of(f.wings_table())) == len(list(ROOT.glob("nbs/[0-9]_*")))
    (tmp_path / "9_silent").mkdir()
    with pytest.raises(KeyError, match="9_silent"):
        f.wings_table(tmp_path)


# --- the page itself


def test_the_start_page_shows_what_the_files_say_today():
    """Its stored outputs are those its cells give now:
    no table or mark is older than the runs, the claims and the code."""
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    space, compared = {}, 0
    with contextlib.chdir(ROOT / "nbs"):
        for cell in [cell for cell in cells if cell["cell_type"] == "code"]:
            *before, last = "".join(cell["source"]).strip().split("\n")
            exec("\n".join(before), space)
            (output,) = cell["outputs"]
            said = "".join(output["data"]["text/markdown"])
            assert said == eval(last, space).data, f"run nbs/index.ipynb anew: {last}"
            compared += 1
    assert compared >= 10


def test_the_front_page_brings_in_no_torch_and_needs_no_data():
    import subprocess
    import sys

    code = (
        "import sys\nfrom unifashion.evidence import front_page as f\nf.contents_table()\n"
        "print([heavy for heavy in ('torch', 'transformers', 'diffusers') if heavy in sys.modules])"
    )
    env = {name: value for name, value in os.environ.items() if name != "UNIFASHION_DATA"}
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr[-800:]
