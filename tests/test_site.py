"""The site of `make docs`: links, citations, formulas, pages of chapters, of names and of results; a toy
site that is built, and the whole one."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import CHAPTERS, KERNEL, REPORTS, ROOT, WINGS

sys.path.insert(0, str(ROOT / ".site"))
from chapters import page_of, title_of
from launch import SITE_BRANCH, colab_address, launch_copy, settings_of
from links import Links, works_of
from names import blocks_of
from results import contents, facts, lowered, missing, overview, results_page, state

NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinxcontrib", "jupyter_server_mathjax")
MISSING = [name for name in NEEDED if not importlib.util.find_spec(name)]
needs_sphinx = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")
WORKS = {"https://arxiv.org/abs/2301.12597": "li2023blip2"}
SETTINGS = {"git_url": "https://code.example/r", "branch": "trunk"}


def code(source, *outputs):
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": list(outputs)} | {
        "execution_count": None
    }


def prose(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def book(*cells):
    return {"cells": list(cells), "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 4}


DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = {"output_type": "display_data", "metadata": {}, "data": {"image/png": DOT, "text/plain": "x"}}


def rewritten(text, page="nbs/5_models/05_losses.ipynb"):
    links = Links(ROOT, SETTINGS, WORKS)
    return links.rewrite(text, page), links.faults


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[train](04_train.ipynb)", "[train](04_train.ipynb)"),
        ("[core](../0_ground/02_core.ipynb#keys)", "[core](../0_ground/02_core.ipynb#keys)"),
        ("[data](../../data/README.md)", "[data](../data.md)"),
        ("[papers](../../data/claims.csv)", "[papers](https://code.example/r/blob/trunk/data/claims.csv)"),
        ("[all](../../data)", "[all](https://code.example/r/tree/trunk/data)"),
        ("[a site](https://example.org/x)", "[a site](https://example.org/x)"),
        ("`[x](nowhere.ipynb)`", "`[x](nowhere.ipynb)`"),
        ("```\n[x](nowhere.ipynb)\n```", "```\n[x](nowhere.ipynb)\n```"),
    ],
)
def test_a_link_leads_where_the_site_has_it(text, expected):
    assert rewritten(text) == (expected, [])


def test_published_runs_and_pictures_are_pages_and_files_of_the_site():
    folder = "../outputs/published/mini/table1_cross_modal_retrieval"
    text, faults = rewritten(f"[one]({folder}/table.md), [two]({folder})", "nbs/index.ipynb")
    assert text == "[one](#mini-table1-cross-modal-retrieval), [two](#mini-table1-cross-modal-retrieval)"
    picture = "outputs/published/mini/figure_atelier/fig_people.png"
    assert rewritten(f"![people](../{picture})", "nbs/index.ipynb") == (f"![people]({picture})", [])
    tag = f'<img src="../{picture}" width="90">'
    assert rewritten(tag, "nbs/index.ipynb")[0] == f'<img src="{picture}" width="90">' and not faults
    own = rewritten("![page](../.site/static/demo.png)", "nbs/index.ipynb")
    assert own == ("![page](site/static/demo.png)", [])


def test_a_link_to_nothing_is_a_fault_that_names_page_and_target():
    assert rewritten("[x](09_gone.ipynb)")[1] == [
        "nbs/5_models/05_losses.ipynb links 09_gone.ipynb, which does not exist"
    ]
    assert rewritten("[x](../../../../outside.md)")[1], "nothing outside the repository is linked"


def test_a_link_to_a_paper_becomes_a_citation():
    paper = "https://arxiv.org/abs/2301.12597"
    assert rewritten(f"starts from [BLIP-2]({paper}).")[0] == "starts from BLIP-2 {cite}`li2023blip2`."
    assert rewritten(f"`[BLIP-2]({paper})`")[0] == f"`[BLIP-2]({paper})`"
    other = "[else](https://arxiv.org/abs/0000.00000)"
    assert rewritten(other)[0] == other


def test_every_work_is_cited_and_every_paper_that_is_linked_is_a_work():
    works = works_of((ROOT / ".site" / "references.bib").read_text(encoding="utf-8"))
    assert len(works) >= 20 and len(set(works.values())) == len(works)
    books = [*CHAPTERS, *REPORTS, ROOT / "nbs" / "index.ipynb", *(ROOT / "nbs").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in books)
    both = {"zhao2024unifashion", "sanguigni2025fashionrag"}  # the page of references itself cites them
    assert not [key for address, key in works.items() if f"]({address})" not in text and key not in both]
    linked = re.findall(r"\]\((https://(?:arxiv\.org|aclanthology\.org|doi\.org)/[^)]+)\)", text)
    assert linked and not set(linked) - set(works), "add it to .site/references.bib"


def test_a_chapters_page_hides_set_up_and_puts_the_picture_first():
    notebook = book(
        prose("# Tower\n\n> What it is."),
        code("#| default_exp models.tower"),
        code("#| export\nimport math"),
        code("from math import pi\nradius = 2"),
        prose("Why, see [BLIP-2](https://arxiv.org/abs/2301.12597)."),
        code("draw()", PICTURE),
        code("#| export\ndef area(r):\n    return pi * r * r"),
        code("area(2)"),
        code("#| hide\nimport nbdev; nbdev.nbdev_export()"),
    )
    assert title_of(notebook) == ("Tower", "What it is.")
    cells = page_of(notebook, "5.8", lambda text: rewritten(text)[0])["cells"]
    assert [cell["source"] for cell in cells] == [
        "# 5.8 Tower\n\n> What it is.",
        "Why, see BLIP-2 {cite}`li2023blip2`.",
        "draw()",
        "import math\n\nfrom math import pi\nradius = 2",
        "def area(r):\n    return pi * r * r",
        "area(2)",
    ]
    collapsed = [cell["source"] for cell in cells if "hide-input" in cell["metadata"].get("tags", [])]
    assert collapsed == ["draw()", "import math\n\nfrom math import pi\nradius = 2"]
    assert notebook["cells"][1]["source"] == "#| default_exp models.tower", "the notebook itself is untouched"


MODULE = '''"""A line."""
__all__ = ["LIMIT", "Point", "shift"]
LIMIT = 3  # at most
class Point:
    "A place."
    x: float = 0.0  # to the right, m
    _hidden: int = 0
    def far(self): return self.x > LIMIT
    def moved(
        self,
        by: float,  # m
    ):  # a new point
        "Elsewhere."
def shift(
    point: "Point | None",  # where from; `|` stays
    *steps,                 # one after the other
    scale=1.0,
) -> Point:  # the last one
    """Move *steps. Raises `ValueError`."""
def shown(a, b):  # two values
    "Not exported."
'''


def test_names_come_with_the_comments_of_their_parameters():
    limit, point, shift = blocks_of(MODULE)
    assert "{py:data} LIMIT\n`3`\n\nat most" in limit
    assert "{py:class} Point(x=0.0)" in point and "| `x` | `float` | `0.0` | to the right, m |" in point
    assert "_hidden" not in point and "far" not in point, "neither private nor without a word"
    assert "{py:method} Point.moved(by)\nElsewhere." in point and "Returns a new point" in point
    assert "{py:function} shift(point, *steps, scale=1.0)" in shift
    assert "| `point` | `'Point \\| None'` |  | where from; `\\|` stays |" in shift
    assert "| `*steps` |  |  | one after the other |" in shift and "| `scale` |  | `1.0` |  |" in shift
    assert shift.count("Returns `Point`: the last one") == 1


def test_a_comment_behind_several_parameters_is_about_none_of_them():
    block = blocks_of('__all__ = ["f"]\ndef f(a, b):  # two values\n    "Does."\n')[0]
    assert "two values" not in block.split("Returns")[0]


def test_a_run_says_what_made_it_and_whether_it_is_todays():
    run = {"key": "k", "started": "2026-11-22T01:00:00", "device": "cpu", "cpu": "AMD EPYC"}
    run |= {"seconds": 18.8, "commit": "6df6d069f9e9"}
    run |= {"parameters": {"profile": "mini", "seeds": "0 1", "full": True}}
    assert facts(run) == "2026-11-22 · AMD EPYC, 19 s · commit `6df6d06` · every row · seeds 0 1"
    assert state(True) == "" and "make reproduce" in state(False)
    assert lowered("## Table\n\ntext\n\n### Part\n", 1) == "\ntext\n\n#### Part\n"


def test_what_was_not_run_is_said():
    titles = {"table1": ("Table 1", "A table.")}
    assert missing("table1", {"mini", "open", "paper"}, titles) == ""
    assert missing("table1", {"mini"}, titles) == (
        "*Not run: real photographs (`open`), the papers' scale (`paper`).* "
        "`make reproduce ONLY=table1` runs it."
    )
    assert missing("figure9", set(), titles) == "*To come: there is no notebook for it yet.*"


def test_the_overview_has_a_line_for_everything_that_is_to_be_reproduced(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "contents.csv").write_text(CONTENTS)
    runs = {"table1": [("mini", tmp_path / "outputs" / "published" / "mini" / "table1")]}
    lines = overview(tmp_path, runs, {"table1": ("Table 1", "")}).split("\n")
    assert lines[2:] == [
        "| A paper, Table 1: numbers | [made](#mini-table1) | not run | not run |",
        "| A paper, Figure 9: a dream | to come | to come | to come |",
    ]


def test_the_page_of_results_has_every_item_table_and_figure(monkeypatch):
    monkeypatch.setattr("results.is_todays", lambda *_: True)
    titles = {path.stem: title_of(json.loads(path.read_text(encoding="utf-8"))) for path in REPORTS}
    page = results_page(ROOT, SETTINGS, titles)
    for paper, item, shows, report in contents(ROOT):
        assert f"| {paper}, {item}: {shows} |" in page
        assert f"## {titles[report][0] if report in titles else item}\n" in page
    published = ROOT / "outputs" / "published"
    for picture in published.rglob("fig_*.png"):
        assert f"({picture.relative_to(ROOT).as_posix()})" in page
    for record in published.rglob("run.json"):
        place = record.parent.relative_to(ROOT).as_posix()
        assert f"(https://code.example/r/blob/trunk/{place}/executed.ipynb)" in page


def test_the_copy_that_colab_opens_begins_with_its_set_up():
    settings = settings_of(ROOT) | {"git_url": "https://github.com/someone/book", "branch": "trunk"}
    notebook = book(
        prose("# Core\n\n> The first. See [show](03_show.ipynb#grid) and [BLIP-2](https://arxiv.org/abs/1)."),
        prose("![a page](../../.site/static/demo.png)"),
        code("#| default_exp ground.core"),
        code("import faiss"),
        code("#| hide\nimport nbdev; nbdev.nbdev_export()"),
    )
    copied = launch_copy(notebook, "nbs/0_ground/02_core.ipynb", settings, ROOT)
    title, set_up, shown, *rest = copied["cells"]
    assert "(https://github.com/someone/book/blob/trunk/nbs/0_ground/03_show.ipynb#grid)" in title["source"]
    assert "[BLIP-2](https://arxiv.org/abs/1)" in title["source"], "Colab has no page of references"
    assert "(https://github.com/someone/book/raw/trunk/.site/static/demo.png)" in shown["source"]
    assert '"--branch", "trunk", "https://github.com/someone/book", book' in set_up["source"]
    assert 'f"{book}[search]"' in set_up["source"] and 'os.chdir(book / "nbs/0_ground")' in set_up["source"]
    assert [cell["source"] for cell in rest] == ["#| default_exp ground.core", "import faiss"]
    plain = launch_copy(book(prose("# Core")), "nbs/0_ground/02_core.ipynb", settings, ROOT)
    assert 'f"{book}"' in plain["cells"][1]["source"], "search engines only where a chapter asks for them"
    assert colab_address(settings, "app").endswith("/github/someone/book/blob/gh-pages/launch/app.ipynb")


def test_the_copies_are_published_where_colab_looks_for_them():
    workflow = (ROOT / ".github" / "workflows" / "site.yml").read_text(encoding="utf-8")
    assert "make docs" in workflow and f"git init -q -b {SITE_BRANCH}" in workflow


def test_a_branchs_site_links_that_branch():
    site = (ROOT / ".github" / "workflows" / "site.yml").read_text(encoding="utf-8")
    assert 's|^branch *=.*|branch = ${GITHUB_REF_NAME}|" settings.ini' in site


def test_actions_are_pinned_by_commit():
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    used = re.findall(r"uses: *(.*)", "\n".join(path.read_text(encoding="utf-8") for path in workflows))
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line) for line in used), used
    assert len(set(used)) == len({line.split("@")[0] for line in used}), "an action has one version"


def test_binder_sets_up_what_make_sets_up():
    start = ROOT / ".binder" / "postBuild"
    assert os.access(start, os.X_OK) and "python .setup.py" in start.read_text(encoding="utf-8")
    asked = (ROOT / ".binder" / "environment.yml").read_text(encoding="utf-8")
    assert re.search(r"- python=3\.1[123]\n", asked)


CHAPTER = [
    prose("# Core\n\n> The first."),
    code("#| default_exp ground.core"),
    prose("Here $x_1$ and, for [BLIP-2](https://arxiv.org/abs/2301.12597),\n\n$$y = \\frac{x}{2}$$"),
    code("figure", PICTURE),
    code("#| export\ndef half(x):  # a number\n    'Half.'\n    return x / 2"),
    prose("## Exercises\n\n1. Halve $x_2$.\n\n   <details><summary>Solution</summary>\n\n   `half(x)`:\n\n"
          "   ```python\n   half(2)\n   ```\n\n   </details>\n\n2. Again."),
    code("#| hide\nimport nbdev; nbdev.nbdev_export()"),
]


CONTENTS = "paper,item,shows,report\nA paper,Table 1,numbers,table1\nA paper,Figure 9,a dream,figure9\n"


def toy_site(root, **more):
    "A repository of one chapter, one report and the site's own files; `more` is prose for the front page."
    shutil.copytree(ROOT / ".site", root / ".site", ignore=shutil.ignore_patterns("__pycache__"))
    books = {
        "index": [prose("# Book\n\nRead [core](0_ground/01_core.ipynb). " + more.get("front", ""))],
        "app": [prose("# App\n\n> A command."), code("#| default_exp app")],
        "0_ground/01_core": CHAPTER,
        "reports/table1": [prose("# Table 1\n\n> A table."), code("run()")],
    }
    for name, cells in books.items():
        path = root / "nbs" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(book(*cells)))
    core = '__all__ = ["half"]\ndef half(\n    x,  # a number\n):\n    "Half."\n'
    files = {"data/README.md": "# Data\n", "outputs/README.md": "# Outputs\n"}
    files |= {"data/contents.csv": CONTENTS, "settings.ini": (ROOT / "settings.ini").read_text()}
    files |= {"unifashion/app.py": '"A."\n', "unifashion/ground/core.py": core}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def build(root):
    return subprocess.run(
        [sys.executable, root / ".site" / "build.py"], cwd=root, capture_output=True, text=True, timeout=900
    )


@needs_sphinx
def test_a_toy_site_is_built(tmp_path):
    done = build(toy_site(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"docs: \d+ pages, \d+ MB, \d+ s: _site/index.html\n", done.stdout)
    page = (tmp_path / "_site" / "0_ground" / "01_core.html").read_text()
    assert "#|" not in page and "nbdev" not in page and "default_exp" not in page
    assert page.count('class="math') == 3 and "\\(x_1\\)" in page and "\\[y = \\frac{x}{2}\\]" in page
    script = re.search(r'src="\.\./(_static/mathjax/MathJax\.js)\?config=([\w-]+)"', page)
    assert (tmp_path / "_site" / script[1]).exists(), "formulas need no network"
    fonts = tmp_path / "_site" / "_static" / "mathjax" / "fonts"
    assert (fonts.parent / "config" / f"{script[2]}.js").exists() and list(fonts.rglob("*.woff"))
    assert 'href="../references.html#' in page and "2023</a>" in page
    assert colab_address(settings_of(ROOT), "0_ground/01_core") in page and "mybinder" in page
    assert "nbs/0_ground/01_core.ipynb" in page
    opened = json.loads((tmp_path / "_site" / "launch" / "0_ground" / "01_core.ipynb").read_text())
    assert '"git", "clone"' in opened["cells"][1]["source"]
    results = str(Text((tmp_path / "_site" / "results.html").read_text()))
    assert "make reproduce ONLY=table1" in results and "To come" in results
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!unifashion)', page)
    folded = re.search(r"<li>.*?<summary>Solution</summary>(.*?)</details>.*?</li>", page, re.S)[1]
    assert "<code" in folded and "highlight" in folded and "```" not in page, "Markdown inside the fold"
    names = (tmp_path / "_site" / "names" / "ground.html").read_text()
    assert "a number" in names and 'href="../0_ground/01_core.html"' in names


@needs_sphinx
@pytest.mark.parametrize(
    ("front", "said"),
    [
        ("[gone](0_ground/02_gone.ipynb)", "nbs/index.ipynb links 0_ground/02_gone.ipynb"),
        ("[gone](#mini-gone)", "mini-gone"),
        ("{cite}`nobody1999`", "nobody1999"),
    ],
)
def test_what_does_not_resolve_fails_the_build(tmp_path, front, said):
    done = build(toy_site(tmp_path, front=front))
    assert done.returncode != 0 and said in done.stderr
    assert not (tmp_path / "_site").exists(), "an earlier site is not replaced by half of one"


class Text(HTMLParser):
    "The text of a page, code and all."

    def __init__(self, page):
        super().__init__()
        self.parts = []
        self.feed(page)

    def handle_data(self, data):
        self.parts.append(data)

    def __str__(self):
        return "".join(self.parts)


@needs_sphinx
def test_the_whole_site_is_built(tmp_path):
    for name in (".site", "nbs", "data", "outputs/published", "unifashion"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.h5"))
    for path in (ROOT / "outputs").glob("*.md"):
        shutil.copy(path, tmp_path / "outputs")
    for path in filter(os.path.isfile, ROOT.glob("[A-Za-z]*")):  # what pages link at the top
        shutil.copy(path, tmp_path)
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    site = tmp_path / "_site"
    for path in CHAPTERS:
        page = (site / path.relative_to(ROOT / "nbs").with_suffix(".html")).read_text(encoding="utf-8")
        assert not re.search(r"^#\|", str(Text(page)), re.M) and "nbdev_export" not in page, path.name
        assert len(page) <= 600 << 10 and "data:image/png" not in page, "pictures are files"
    front = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{wing}/index.html"' in front for wing in WINGS) and "make reproduce" in front
    losses = (site / "5_models" / "05_losses.html").read_text(encoding="utf-8")
    assert losses.count('class="math') >= 30
    left = re.sub(r"<(pre|script).*?</\1>", "", losses, flags=re.S)
    assert "$" not in left, "no formula is left as it was"
    results = (site / "results.html").read_text(encoding="utf-8")
    for table in (ROOT / "outputs" / "published").rglob("table.md"):
        assert f'id="{table.parent.parent.name}-{table.parent.name}"'.replace("_", "-") in results, table
    report = (site / "reports" / "train_pretrain.html").read_text(encoding="utf-8")
    assert 'href="../results.html#mini-train-pretrain-seed-0"' in report
    figures = list((ROOT / "outputs" / "published").rglob("fig_*.png"))
    assert len(figures) >= 20 and results.count("<img") >= len(figures)
