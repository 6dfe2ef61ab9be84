"""Hooks of the site: published pictures beside the pages, a page of every module's names, parts of the
book as the menu."""

import json, re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent
WINGS = {
    "0": "Ground",
    "1": "Wardrobe",
    "2": "People",
    "3": "Shop",
    "4": "Data",
    "5": "Models",
    "6": "UniFashion",
    "7": "Fashion-RAG",
    "8": "Evidence",
}


def chapters():
    for path in sorted([*(ROOT / "nbs").glob("[0-9]_*/[0-9]*.ipynb"), ROOT / "nbs" / "app.ipynb"]):
        source = "\n".join(
            "".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        )
        yield (
            path,
            re.search(r"^# (.+)$", source, re.M)[1],
            re.search(r"#\| *default_exp +([\w.]+)", source)[1],
        )


def on_config(config):
    menu = [{"Start": "index.ipynb"}]
    for digit, wing in WINGS.items():
        pages = [
            {title: f"{path.parent.name}/{path.name}"}
            for path, title, _ in chapters()
            if path.parent.name[0] == digit
        ]
        if pages:
            menu.append({f"{digit} {wing}": pages})
    config.nav = [*menu, {"Use": "app.ipynb"}, {"Names": "names.md"}]
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
    up = "../" * page.file.src_uri.count("/")
    html = re.sub(r'href="([\w/.]+)\.ipynb"', r'href="\1.html"', html)
    html = re.sub(r'"(?:\.\./)+(outputs/published/[^"]+\.png)"', rf'"{up}\1"', html)
    return re.sub(
        r'href="(?:\.\./)+((?:data|outputs|tests)/[^"]+|[\w.]+(?<!\.html))"',
        rf'href="{config.repo_url.rstrip("/")}/blob/main/\1"',
        html,
    )
