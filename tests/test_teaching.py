"""The reading paths, the glossary and the folded solutions: what they name exists, in an order in which it
can be read, and every exercise on a path is solved."""

import json
import re
import sys
import unicodedata

import pytest
from conftest import CHAPTERS, REPORTS, ROOT
from test_reading import code_faults
from test_repo import cells, imports, module_of

from unifashion.ground.core import PROFILES

sys.path.insert(0, str(ROOT / ".site"))
from links import Links

PATHS = (ROOT / "nbs" / "teaching.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "nbs" / "glossary.md").read_text(encoding="utf-8")
HOUR, TERM = PATHS.split("## In a term")
CHAPTER = re.compile(r"\[[^\]]*\]\((\d_\w+/\w+\.ipynb)\)")
TERM_LINE = re.compile(r"\* \*\*(.+?)\*\*: (.+?)\. \[(.+?)\]\((.+?)\)")


def weeks():
    "What each week says, in order."
    return re.split(r"^### Week \d+: .+$", TERM, flags=re.M)[1:]


def chapters_of(text):
    return [ROOT / "nbs" / name for name in CHAPTER.findall(text)]


def needed_by():
    "chapter -> all chapters whose names its exported cells use, directly or not."
    home = {module_of(path): path for path in CHAPTERS}
    direct = {}
    for module, path in home.items():
        exported = [source for source, _ in cells(path) if re.search(r"^#\| *exports?\b", source, re.M)]
        names = set().union(*map(imports, exported)) if exported else set()
        known = {name.removeprefix("unifashion.") for name in names}
        direct[path] = {home[name] for name in known if name in home and name != module}
    every = {}
    for path in CHAPTERS:  # lower ones come first
        every[path] = direct[path].union(*(every.get(own, set()) for own in direct[path]))
    return every


def order_faults(steps, needs):
    "Chapters of a list of steps that need one of a later step, or one that stands later in their own."
    order = [path for step in steps for path in step]
    place = {path: i for i, path in enumerate(order)}
    return [
        f"{path.stem} comes before {own.stem}"
        for path in order
        for own in needs[path]
        if place.get(own, -1) > place[path]
    ]


@pytest.mark.parametrize("text", [PATHS, GLOSSARY], ids=["paths", "glossary"])
def test_what_is_linked_exists(text):
    links = Links(ROOT, {"git_url": "https://code.example/r", "branch": "trunk"}, {})
    links.rewrite(text, "nbs/teaching.md")
    assert not links.faults and len(chapters_of(text)) >= 20


def test_an_hour_takes_an_hour():
    minutes = [int(n) for n in re.findall(r"^\| (\d+) \|", HOUR, re.M)]
    assert 8 <= len(minutes) <= 10 and sum(minutes) == 60
    assert len(chapters_of(HOUR)) == len(minutes) == len(set(chapters_of(HOUR)))


def test_a_term_is_weeks_with_chapters_exercises_a_run_and_papers():
    assert 12 <= len(weeks()) <= 14
    for week in weeks():
        for part in ("**Read**", "**Exercises**", "**Run**", "**Papers**"):
            assert week.count(part) == 1, f"{part} in {week[:60]!r}"
        assert 2 <= len(chapters_of(week.split("**Exercises**")[0])) <= 4
        assert re.search(r"\]\(https://(arxiv|aclanthology)\.org/", week)


def test_chapters_come_after_those_that_they_need():
    assert not order_faults([chapters_of(week) for week in weeks()], needed_by())


def test_a_chapter_before_what_it_needs_is_found():
    losses, qformer = (ROOT / "nbs" / "5_models" / f"{name}.ipynb" for name in ("05_losses", "12_qformer"))
    assert order_faults([[qformer], [losses]], needed_by()) == ["12_qformer comes before 05_losses"]
    assert not order_faults([[losses], [qformer]], needed_by())


def numbers(text):
    "The exercises that a list such as '1 and 2', '1 to 3' or '1, 2' means."
    found = re.findall(r"(\d+) to (\d+)|(\d+)", text)
    return [n for first, last, one in found for n in range(int(first or one), int(last or one) + 1)]


def test_the_exercises_that_a_week_asks_for_are_there():
    for week in weeks():
        read, rest = week.split("**Exercises**: ")
        titles = dict(re.findall(r"\[([^\]]+)\]\((\d_\w+/\w+\.ipynb)\)", read))
        asked = re.split(r", (?=[A-Za-z])", rest.split(".\n")[0])
        for entry in asked:
            name, given = re.fullmatch(r"(.+?) ((?:\d[ ,andto]*)+)", entry).groups()
            path = next(own for title, own in titles.items() if title.lower().endswith(name.lower()))
            assert set(numbers(given)) <= set(range(1, 1 + len(exercises(ROOT / "nbs" / path)))), entry


def commands(text):
    return [line for line in re.findall(r"`([^`\n]+)`", text) if line.startswith(("make ", "unifashion "))]


def test_every_command_is_one_that_there_is():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
    reports = {path.stem for path in REPORTS}
    given = commands(PATHS)
    assert sum(line.startswith("make reproduce") for line in given) >= len(weeks())
    for line in given:
        if line.startswith("unifashion "):
            from unifashion.app import COMMANDS

            assert line.split()[1] in COMMANDS, line
            continue
        _, target, *settings = line.split()
        takes = re.search(rf"^TAKES_{target} := (.+)$", makefile, re.M)[1].split()
        assert target in targets, line
        for setting in settings:
            name, value = setting.split("=")
            known = {"ONLY": reports, "PROFILE": set(PROFILES), "FULL": {"1"}}[name]
            assert name in takes and value in known, line


def plain(term):
    "A term as it is sorted: no case, no accents."
    letters = unicodedata.normalize("NFKD", term.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def text_of(path):
    return "\n".join("".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"])


def test_the_glossary_is_sorted_has_no_term_twice_and_every_line_is_one():
    lines = [line for line in GLOSSARY.split("\n") if line.startswith("*")]
    terms = [TERM_LINE.fullmatch(line)[1] for line in lines]
    assert 60 <= len(terms) == len(set(map(plain, terms)))
    assert terms == sorted(terms, key=lambda term: (not term[0].isalpha(), plain(term)))


def test_a_term_is_used_in_the_chapter_that_builds_it():
    for term, _, _, target in TERM_LINE.findall(GLOSSARY):
        bare = re.sub(r" \(.*\)", "", term).casefold()
        words = text_of(ROOT / "nbs" / target).casefold()
        used = re.search(rf"(?<![a-z0-9]){re.escape(bare)}s?(?![a-z0-9])", words)
        assert used, f"{term} is not in {target}"


def exercises(path):
    "The exercises of a chapter: (question, solution or '')."
    part = text_of(path).split("## Exercises", 1)[1]
    found = []
    for item in re.split(r"^(?=\d\. )", part, flags=re.M)[1:]:
        question, _, rest = item.partition("<details><summary>Solution</summary>")
        found.append((question.strip(), rest.partition("</details>")[0].strip()))
    return found


ON_A_PATH = sorted(set(chapters_of(PATHS)))


@pytest.mark.parametrize("path", ON_A_PATH, ids=lambda path: path.stem)
def test_every_exercise_on_a_path_has_a_folded_solution(path):
    found = exercises(path)
    assert len(found) >= 2
    for question, solution in found:
        assert len(solution.split()) >= 12, f"no solution to {question[:60]!r}"


SOLVED = [path for path in CHAPTERS if "<summary>Solution</summary>" in text_of(path)]


@pytest.mark.parametrize("path", SOLVED, ids=lambda path: path.stem)
def test_folds_are_closed_and_their_code_reads_well(path):
    part = text_of(path).split("## Exercises", 1)[1]
    assert part.count("<details>") == part.count("</details>") == part.count("<summary>Solution</summary>")
    for block in re.findall(r"^   ```python\n(.*?)^   ```$", part, re.M | re.S):
        source = re.sub(r"^   ", "", block, flags=re.M)
        assert not [fault for fault in code_faults(source) if not fault.startswith("late import")], source
