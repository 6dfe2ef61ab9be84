"""Notebooks as pages: no directives, no set-up, the first picture before the code that draws it."""

import ast, copy, json, re

HIDDEN = re.compile(r"^#\| *(hide|default_exp)\b|nbdev_export\(\)", re.M)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)
EXPORT = re.compile(r"^#\| *exports?\b", re.M)
PICTURES = {"image/png", "image/svg+xml"}


def source_of(cell):
    return "".join(cell["source"])


def title_of(notebook):
    "The title and the line below it, from the first cell."
    found = re.match(r"# (.+)\n(?:\s*> ?(.+))?", source_of(notebook["cells"][0]))
    return found[1].strip(), (found[2] or "").strip()


def module_of(notebook):
    "The module that a notebook exports, or None."
    found = (re.search(r"#\| *default_exp +([\w.]+)", source_of(cell)) for cell in notebook["cells"])
    return next((name[1] for name in found if name), None)


def is_made_of(source, *kinds):
    "Whether a cell's statements are all of some kinds of `ast` nodes."
    try:
        return all(isinstance(node, kinds) for node in ast.parse(source).body)
    except SyntaxError:  # IPython magic
        return False


def is_set_up(cell, source, opening):
    """Whether a cell only prepares: imports and calls; before the first picture also whatever a lesson needs
    for it, but nothing that is exported, and nothing that shows something."""
    if opening and not EXPORT.search(source):
        return not cell["outputs"]
    return is_made_of(source, ast.Import, ast.ImportFrom, *[ast.Expr] * (opening and not cell["outputs"]))


def pictures_of(cell):
    "The PNG pictures among a cell's outputs, base64."
    return [out["data"]["image/png"] for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]


def has_picture(cell):
    return any(PICTURES & set(out.get("data", {})) for out in cell.get("outputs", []))


def tag(cell, name):
    cell["metadata"].setdefault("tags", []).append(name)


def shown(cells):
    "Cells without directives; hidden ones are left out, set-up and what draws the first picture collapsed."
    kept, opening = [], any(map(has_picture, cells))
    for cell in cells:
        source = source_of(cell)
        if cell["cell_type"] == "code":
            if HIDDEN.search(source) or not DIRECTIVE.sub("", source).strip():
                continue
            cell["source"] = DIRECTIVE.sub("", source).strip("\n")
            if is_set_up(cell, source, opening):
                tag(cell, "hide-input")
                tag(cell, "set-up")
            elif opening and not EXPORT.search(source):
                tag(cell, "hide-input")
            opening = opening and not has_picture(cell)
        kept.append(cell)
    return kept


def set_up_after_the_picture(cells):
    "The set-up that stands before the first picture, as one cell behind it."
    first = next((i for i, cell in enumerate(cells) if has_picture(cell)), None)
    before = cells[:first] if first is not None else []
    set_up = [cell for cell in before if "set-up" in cell["metadata"].get("tags", [])]
    if not set_up:
        return cells
    one = set_up[0] | {"source": "\n\n".join(source_of(cell) for cell in set_up)}
    others = [cell for cell in before if cell not in set_up]
    return [*others, cells[first], one, *cells[first + 1 :]]


def page_of(notebook, number, rewrite):
    "A notebook as the site shows it, its title numbered, its links and those of its outputs rewritten."
    page = copy.deepcopy(notebook)
    page["cells"] = set_up_after_the_picture(shown(page["cells"]))
    for cell in page["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = rewrite(source_of(cell))
        for out in cell.get("outputs", []):
            if "text/markdown" in out.get("data", {}):
                out["data"]["text/markdown"] = rewrite("".join(out["data"]["text/markdown"]))
    if number:
        page["cells"][0]["source"] = re.sub(r"^# ", f"# {number} ", page["cells"][0]["source"])
    page["metadata"].setdefault("kernelspec", {"name": "python3", "display_name": "python3"})
    return page


def front_page(notebook, rewrite, menu):
    "The index notebook: its prose and tables without code, and the menu of the whole site."
    page = page_of(notebook, "", rewrite)
    for cell in page["cells"]:
        if cell["cell_type"] == "code":
            tag(cell, "remove-input")
    page["cells"].append({"cell_type": "markdown", "id": "menu", "metadata": {}, "source": menu})
    return page


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))
