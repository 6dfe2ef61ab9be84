"""Hooks of the site: published pictures beside the pages, a page of every module's names, parts of the book as the menu."""
import json, re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent
PARTS = {"0": "Ground", "1": "World and data", "2": "Shared machinery", "3": "UniFashion", "4": "Fashion-RAG", "5": "Evidence", "6": "Use"}


def chapters():
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        source = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
        yield path, re.search(r"^# (.+)$", source, re.M)[1], re.search(r"#\| *default_exp +(\w+)", source)[1]


def on_config(config):
    menu = [{"Start": "index.ipynb"}] if (ROOT / "nbs" / "index.ipynb").exists() else []
    for digit, part in PARTS.items():
        pages = [{f"{path.stem.split('_')[0]} {title}": path.name} for path, title, _ in chapters() if path.name[0] == digit]
        if pages: menu.append({f"{digit} {part}": pages})
    config.nav = [*menu, {"Names": "names.md"}]
    return config


def on_files(files, config):
    names = "\n\n".join(f"::: unifashion.{module}" for _, _, module in chapters())
    files.append(File.generated(config, "names.md", content=f"# Every exported name\n\n{names}\n"))
    for path in sorted((ROOT / "outputs" / "published").rglob("*.png")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_content(html, page, config, files):
    "Links as the notebooks have them, to chapters and to the repository's files, as the site has them."
    html = re.sub(r'href="([\w/]+)\.ipynb"', r'href="\1.html"', html)
    html = re.sub(r'"\.\./(outputs/published/[^"]+\.png)"', r'"\1"', html)
    return re.sub(r'href="\.\./([^"]+)"', rf'href="{config.repo_url.rstrip("/")}/blob/main/\1"', html)
