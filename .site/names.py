"""Pages of every exported name, read from the package's source without importing it: what it is, and a
table of its parameters with what their comments (docments) say."""

import ast, io, re, tokenize


def comments_of(source):
    "The comments of a source text by line number."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def comment_between(comments, first, last):
    "The comments of some lines, joined."
    return " ".join(comments[line] for line in range(first, last + 1) if line in comments)


def parameters_of(function, comments):
    "(name, type, default, meaning) of each parameter, self and cls left out."
    spec = function.args
    plain = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(plain) - len(spec.defaults)) + spec.defaults
    every = [(arg, arg.arg, default) for arg, default in zip(plain, defaults)]
    every += [(spec.vararg, f"*{spec.vararg.arg}", None)] if spec.vararg else []
    every += [(arg, arg.arg, default) for arg, default in zip(spec.kwonlyargs, spec.kw_defaults)]
    every += [(spec.kwarg, f"**{spec.kwarg.arg}", None)] if spec.kwarg else []
    lines = [function.lineno] + [arg.lineno for arg, _, _ in every]
    rows = []
    for arg, name, default in every:
        alone = lines.count(arg.lineno) == 1  # a comment behind several is about none of them
        meaning = comment_between(comments, arg.lineno, (default or arg).end_lineno) if alone else ""
        rows.append((name, text_of(arg.annotation), text_of(default), meaning))
    return [row for row in rows if row[0] not in ("self", "cls")]


def fields_of(node, comments):
    "(name, type, default, meaning) of the fields of a dataclass or named tuple."
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    return [
        (item.target.id, text_of(item.annotation), text_of(item.value),
         comment_between(comments, item.lineno, item.end_lineno))
        for item in fields if not item.target.id.startswith("_")
    ]  # fmt: skip


def text_of(node):
    return "" if node is None else ast.unparse(node)


def returns_of(function, comments):
    "(type, meaning) of what a function returns; the comment stands behind its last line before the body."
    line = function.returns.end_lineno if function.returns else function.body[0].lineno - 1
    given = [arg.lineno for arg in [*function.args.args, *function.args.kwonlyargs]]
    meaning = comments.get(line, "") if line > max(given, default=0) else ""
    return text_of(function.returns), meaning


def cell(text, code=False):
    "A text as a cell of a Markdown table."
    text = text.replace("|", "\\|").replace("\n", " ")
    return f"`` {text} ``" if code and "`" in text else f"`{text}`" if code and text else text


def table(rows, first="parameter"):
    "A Markdown table of parameters or fields; columns that hold nothing are left out."
    heads = [first, "type", "default", "meaning"]
    used = [i for i in range(4) if any(row[i] for row in rows)]
    lines = [[heads[i] for i in used], ["---"] * len(used)]
    lines += [[cell(row[i], code=i < 3) for i in used] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def signature(rows):
    "Parameters as a call shows them, without types."
    short = {d: d if len(d) <= 24 else "..." for _, _, d, _ in rows}
    return ", ".join(name + (f"={short[default]}" if default else "") for name, _, default, _ in rows)


def prose(node):
    "A docstring as Markdown."
    text = ast.get_docstring(node) or ""
    return re.sub(r"(?<![\w`])\*(?=\w)", r"\\*", text)


def block(kind, head, *parts):
    "A directive of Sphinx's Python domain around what is said of a name."
    inside = "\n\n".join(part for part in parts if part)
    return f":::::{{py:{kind}}} {head}\n{inside}\n:::::\n"


def function_block(node, comments, kind="function", name=None):
    rows = parameters_of(node, comments)
    given, meaning = returns_of(node, comments)
    said = ": ".join(part for part in (f"`{given}`" if given else "", meaning) if part)
    head = f"{name or node.name}({signature(rows)})"
    return block(kind, head, prose(node), table(rows) if rows else "", f"Returns {said}" if said else "")


def is_patch(node):
    return any(text_of(item).startswith("patch") for item in node.decorator_list)


def is_property(node):
    return any("property" in text_of(item) for item in node.decorator_list)


def method_block(node, comments, owner):
    if is_property(node):
        return block("property", f"{owner}.{node.name}", prose(node) or text_of(node.returns))
    return function_block(node, comments, "method", f"{owner}.{node.name}")


def class_block(node, comments):
    "A class: its fields or what it is made from, then the methods that say what they do."
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    start = next((item for item in methods if item.name == "__init__"), None)
    rows = parameters_of(start, comments) if start else fields_of(node, comments)
    said = table(rows, "parameter" if start else "field") if rows else ""
    open_ones = [m for m in methods if not m.name.startswith("_") and (prose(m) or is_property(m))]
    below = [method_block(method, comments, node.name) for method in open_ones]
    return "\n".join([block("class", f"{node.name}({signature(rows)})", prose(node), said), *below])


def exported(tree):
    "The names in a module's `__all__`."
    for node in tree.body:
        if isinstance(node, ast.Assign) and text_of(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def blocks_of(source):
    "The described names of a module's source, in its order."
    tree, comments = ast.parse(source), comments_of(source)
    wanted, found = exported(tree), []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in wanted:
            found.append(class_block(node, comments))
        elif isinstance(node, ast.FunctionDef) and is_patch(node):
            owner = text_of(node.args.args[0].annotation)
            found.append(method_block(node, comments, owner))
        elif isinstance(node, ast.FunctionDef) and node.name in wanted:
            found.append(function_block(node, comments))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = text_of(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if target in wanted:
                value, meaning = text_of(node.value), comment_between(comments, node.lineno, node.lineno)
                found.append(block("data", target, f"`{value}`" if len(value) <= 90 else "", meaning))
    return found


def module_section(module, source, chapter, title):
    "A module's part of a page: its line, the chapter that defines it, its names. `chapter` is a link."
    line = (ast.get_docstring(ast.parse(source)) or "").strip()
    blocks = blocks_of(source)
    heads = [re.match(r":+\{py:(?!method|property)\w+\} ([\w.]+)", part) for part in blocks]
    listed = " · ".join(f"{{py:obj}}`{head[1]} <unifashion.{module}.{head[1]}>`" for head in heads if head)
    head = f"## {module}\n\n{line} Defined and explained in [{title}]({chapter}).\n\n{listed}\n"
    return "\n".join([head, f"```{{py:currentmodule}} unifashion.{module}\n```\n", *blocks])
