"""What stands behind a page's buttons. Binder opens the chapter itself, in the environment of `.binder`.
Colab opens a copy of the chapter whose first code cell brings the book and its packages; the copies are
published with the site, on a branch of their own."""

import copy, re
from configparser import ConfigParser

from chapters import source_of
from links import LinksFromAnywhere

SITE_BRANCH = "gh-pages"  # where the site is published
COPIES = "launch"         # the folder of the copies in it
SET_UP = """\
# set-up: the book and what it needs; some minutes, once a session
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

book = Path.home() / "{name}-book"
if not book.exists():
    clone = ["git", "clone", "-q", "--depth", "1", "--branch", "{branch}", "{repository}", book]
    subprocess.run(clone, check=True)
if importlib.util.find_spec("{package}") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", f"{{book}}{extra}"], check=True)
sys.path.insert(0, str(book))  # this kernel started before the package was there
os.chdir(book / "{folder}")    # a chapter runs in the folder it lies in
"""


def settings_of(root):
    "The settings of settings.ini: `git_url`, `branch`, `lib_name` and the others."
    config = ConfigParser()
    config.read(root / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def extras_of(code):
    "The extras of the package that some code asks for: '[search]', '[demo,search]' or ''."
    asked = {"demo": r"\bgradio\b", "search": r"\b(?:faiss|pymilvus)\b"}
    names = [name for name, words in asked.items() if re.search(words, code)]
    return f"[{','.join(names)}]" if names else ""


def set_up_cell(settings, path, notebook):
    "The code of a copy's first cell; `path` is the notebook's in the repository."
    everything = "\n".join(source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return SET_UP.format(
        name=settings["repo"],
        package=settings["lib_name"],
        repository=settings["git_url"],
        branch=settings["branch"],
        folder=path.rpartition("/")[0],
        extra=extras_of(everything),
    )


def is_export(cell):
    "Whether a cell exports the package anew: what a chapter ends with, and what only its own clone needs."
    return cell["cell_type"] == "code" and "nbdev_export()" in source_of(cell)


def launch_copy(notebook, path, settings, root):
    "A notebook as Colab opens it: its title, the set-up, the rest; its links lead into the repository."
    links = LinksFromAnywhere(root, settings)
    page = copy.deepcopy(notebook)
    title, *rest = [cell for cell in page["cells"] if not is_export(cell)]
    for cell in [title, *rest]:
        if cell["cell_type"] == "markdown":
            cell["source"] = links.rewrite(source_of(cell), path)
    source = set_up_cell(settings, path, notebook)
    set_up = {"cell_type": "code", "id": "set-up", "metadata": {}, "source": source}
    page["cells"] = [title, set_up | {"execution_count": None, "outputs": []}, *rest]
    page["metadata"].setdefault("kernelspec", {"name": "python3", "display_name": "python3"})
    return page


def colab_address(settings, page):
    "Where Colab finds the copy of a page, '0_ground/02_core'."
    repository = settings["git_url"].removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{repository}/blob/{SITE_BRANCH}/{COPIES}/{page}.ipynb"
