"""How the book reads: code no wider than a page, one statement a line, one hand, pictures early, values
last."""

import ast
import copy
import io
import json
import re
import tokenize

import pytest
from conftest import CHAPTERS, REPORTS, ROOT

WIDTH = 110
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
GUARDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
SCRIPTS = [
    *sorted((ROOT / "tests").rglob("*.py")),
    *(ROOT / name for name in (".setup.py", "setup.py", "Snakefile")),
    *sorted((ROOT / ".site").glob("*.py")),
    ROOT / ".torchvision-schemas" / "torchvision_schemas.py",
]


def tree_of(source):
    "A cell's syntax tree; lines of IPython magic are left out."
    return ast.parse("\n".join("" if line.startswith(("%", "!")) else line for line in source.split("\n")))


def wide_lines(source):
    return [
        f"{len(line)} characters: {line.strip()[:50]}" for line in source.split("\n") if len(line) > WIDTH
    ]


def nested_comprehensions(tree):
    "Comprehensions inside comprehensions, and those with more than two `for`."
    faults = []
    for node in ast.walk(tree):
        if not isinstance(node, COMPREHENSIONS):
            continue
        inner = [child for child in ast.walk(node) if isinstance(child, COMPREHENSIONS) and child is not node]
        if inner or len(node.generators) > 2:
            faults.append(f"nested comprehension: {ast.unparse(node)[:60]}")
    return faults


class Shape(ast.NodeTransformer):
    "A syntax tree without its names and values."

    def visit_Name(self, node):
        return ast.Name("_", node.ctx)

    def visit_Attribute(self, node):
        return ast.Attribute(self.visit(node.value), "_", node.ctx)

    def visit_Constant(self, node):
        return ast.Constant(type(node.value).__name__ if isinstance(node.value, (str, bytes)) else 0)


def shape_of(node):
    return ast.dump(Shape().visit(copy.deepcopy(node)))


def is_swap(targets, values):
    return {ast.unparse(node) for node in targets} == {ast.unparse(node) for node in values}


def unlike_tuples(tree):
    "Assignments of several values in one line that are no swap and whose values are not of one form."
    faults = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
            continue
        for target in node.targets:
            if isinstance(target, ast.Tuple) and not is_swap(target.elts, node.value.elts):
                if len({shape_of(value) for value in node.value.elts}) > 1:
                    faults.append(f"unlike things in one assignment: {ast.unparse(node)[:60]}")
    return faults


def is_guard(node):
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and len(node.body) == 1
        and isinstance(node.body[0], GUARDS)
    )


def is_one_line_function(node):
    return isinstance(node, (ast.FunctionDef, ast.ClassDef)) and len(node.body) == 1


def crowded_lines(tree):
    "Lines that hold more than one statement; a guard and a function may stand on one line."
    faults, seen = [], {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        if is_guard(node) or is_one_line_function(node):
            seen.setdefault(node.lineno, node)
            if node.lineno == node.body[0].lineno:
                node.body[0].allowed = True
            continue
        if getattr(node, "allowed", False):
            continue
        if node.lineno in seen:
            faults.append(f"two statements in a line: {ast.unparse(node)[:60]}")
        seen.setdefault(node.lineno, node)
    return faults


def single_quotes(source):
    "Strings that open with a single quote though they hold no double one."
    strings = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.STRING]
    bare = [re.sub(r"^\w*", "", token.string) for token in strings]
    return [f"single quotes: {text[:60]}" for text in bare if text[0] == "'" and '"' not in text[1:-1]]


def hanging_docments(source, tree):
    "Signatures over several lines: every parameter on a line of its own, the bracket opens the first."
    lines, faults = source.split("\n"), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        given = node.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        rows = [parameter.lineno for parameter in parameters if parameter]
        if rows and max(rows) > node.lineno and (len(set(rows)) < len(rows) or min(rows) == node.lineno):
            faults.append(f"docments that do not hang: {lines[node.lineno - 1].strip()[:60]}")
    return faults


def torn_lambdas(tree):
    "Lambdas whose body does not begin on the line of their head."
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    return [f"torn lambda: {ast.unparse(x)[:60]}" for x in lambdas if x.body.lineno > x.lineno]


def late_imports(tree):
    "Imports below other statements of a cell."
    is_import = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body]
    first = is_import.index(False) if False in is_import else len(is_import)
    late = [node for node, found in zip(tree.body[first:], is_import[first:]) if found]
    return [f"late import: {ast.unparse(node)}" for node in late]


def unused_imports(trees):
    "Names that a chapter imports and that none of its cells reads."
    nodes = [node for tree in trees for node in ast.walk(tree)]
    read = {node.id for node in nodes if isinstance(node, ast.Name)}
    imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    imports = [node for node in imports if getattr(node, "module", "") != "__future__"]
    given = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
    return [f"nothing uses the imported {name}" for name in sorted(given - read - {"*"})]


def code_faults(source):
    "What makes one cell, or one file, hard to read."
    tree = tree_of(source)
    text = "\n".join("" if line.startswith(("%", "!", "#|")) else line for line in source.split("\n"))
    one_line = len([line for line in text.split("\n") if line.strip()]) == 1
    crowded = [] if one_line and "#| export" not in source else crowded_lines(tree)
    return [
        *wide_lines(source),
        *nested_comprehensions(tree),
        *unlike_tuples(tree),
        *crowded,
        *single_quotes(text),
        *hanging_docments(text, tree),
        *torn_lambdas(tree),
        *late_imports(tree),
    ]


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source_of(cell):
    return "".join(cell["source"])


def is_picture(cell):
    kinds = [kind for output in cell.get("outputs", ()) for kind in output.get("data", {})]
    return "image/png" in kinds or "image/svg+xml" in kinds


def lessons(cells):
    "Lesson cells, those of the exercises left out, with their places."
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "markdown" and "## Exercises" in source_of(cell):
            return
        if cell["cell_type"] == "code" and not re.search(r"^#\|", source_of(cell), re.M):
            yield place, cell


def page_faults(cells):
    """What makes a chapter hard to read:
    pictures that come late, lesson cells that end in no value, long ones."""
    pictures = [place for place, cell in enumerate(cells) if is_picture(cell)]
    faults = [] if pictures and pictures[0] <= len(cells) / 3 else ["no picture in the first third"]
    for place, cell in lessons(cells):
        body = tree_of(source_of(cell)).body
        if body and isinstance(body[-1], ast.Assert):
            faults.append(f"cell {place} ends in an assert, not in the value it is about")
        if len(source_of(cell).split("\n")) > 40:
            faults.append(f"cell {place} has over 40 lines: {source_of(cell)[:40]!r}")
    return faults


def notebook_faults(path):
    code = {n: source_of(cell) for n, cell in enumerate(cells_of(path)) if cell["cell_type"] == "code"}
    faults = unused_imports([tree_of(source) for source in code.values()])
    for place, source in code.items():
        faults += [f"cell {place}: {fault}" for fault in code_faults(source)]
    return faults


@pytest.mark.parametrize("path", CHAPTERS + REPORTS, ids=lambda path: path.stem)
def test_code_reads_well(path):
    assert not notebook_faults(path)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_shows_what_it_is_about(path):
    assert not page_faults(cells_of(path))


def test_no_script_is_wider_than_a_page():
    wide = {str(path.relative_to(ROOT)): wide_lines(path.read_text(encoding="utf-8")) for path in SCRIPTS}
    assert not {name: lines for name, lines in wide.items() if lines}


FAULTY = {
    "x = 1" + " " * 120 + "  # far": "characters",
    "a = [[x for x in y] for y in z]": "nested comprehension",
    "a, b = f(x), 3": "unlike things",
    "#| export\na = 1; b = 2": "two statements",
    "a = 1\nif a: print(a)": "two statements",
    "a = 1\nfor x in y: print(x)": "two statements",
    "a = 'single'": "single quotes",
    "def f(a,  # one\n      b,  # two\n      ):\n    pass": "docments that do not hang",
    "def f(\n    a, b,  # both\n):\n    pass": "docments that do not hang",
    "f = g(lambda a,\n      b: a)": "torn lambda",
    "a = 1\nimport b": "late import",
}
SOUND = [
    "a, b = b, a",
    "a, b = 1, 2",
    "a, b = f(x), f(y)",
    "def f(a):\n    if not a: return None\n    return a",
    "def f(a): return a",
    "a = 1; b = 2",
    "a = '\"quoted\"'",
    "def f(\n    a,  # one\n    b=2,  # two\n) -> int:\n    return a",
    "a = [x for y in z for x in y]",
]


@pytest.mark.parametrize("source", FAULTY)
def test_a_planted_fault_is_found(source):
    faults = code_faults(source)
    assert len(faults) == 1 and FAULTY[source] in faults[0]


@pytest.mark.parametrize("source", SOUND)
def test_sound_code_has_no_fault(source):
    assert not code_faults(source)


def test_an_import_that_no_cell_reads_is_found():
    cells = [ast.parse(source) for source in ("import os, numpy as np", "from a import b, c", "np.ones(b)")]
    assert unused_imports(cells) == ["nothing uses the imported c", "nothing uses the imported os"]


def cell(kind, source, *outputs):
    return {"cell_type": kind, "source": source, "outputs": [{"data": {name: ""}} for name in outputs]}


def test_a_late_picture_and_a_cell_that_ends_in_an_assert_are_found():
    picture = cell("code", "figure", "image/png")
    words = [cell("markdown", "# Words")] * 4
    assert not page_faults([words[0], picture, *words])
    assert page_faults([*words, picture, words[0]]) == ["no picture in the first third"]
    assert "ends in an assert" in page_faults([picture, cell("code", "assert x"), *words])[0]
    after = [picture, *words, cell("markdown", "## Exercises"), cell("code", "assert x")]
    assert not page_faults(after)
