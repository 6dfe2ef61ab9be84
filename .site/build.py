"""The site of `make docs`: lays the sources of its pages in .cache/site, lets Sphinx make pages of them and
puts these in _site, with the copies of the notebooks that Colab opens. Nothing is executed or fetched."""

import base64, io, json, shutil, sys, time
from pathlib import Path

from chapters import front_page, module_of, page_of, pictures_of, read, title_of
from launch import COPIES, launch_copy, settings_of
from links import Links, place, works_of
from names import module_section
from results import results_page, where_published

ROOT = Path(__file__).resolve().parent.parent
WINGS = {
    "0_ground": ("0 Ground", "What every wing stands on."),
    "1_wardrobe": ("1 Wardrobe", "Garments, drawn."),
    "2_people": ("2 People", "Who wears them."),
    "3_shop": ("3 Shop", "Words and files: everything that is written."),
    "4_data": ("4 Data", "Everything that is read."),
    "5_models": ("5 Models", "What is trained, and how."),
    "6_unified": ("6 UniFashion", "The first paper, part by part."),
    "7_rag": ("7 Fashion-RAG", "The second paper, part by part."),
    "8_evidence": ("8 Evidence", "Baselines, audits and the tables that say what holds."),
}
GUIDES = ("nbs/teaching.md", "nbs/glossary.md")  # pages of the book that are no notebooks
NAMES = "Every exported name with its parameters, read from the package. The chapters explain them."
REFERENCES = """# References

The two papers of this book are UniFashion {cite}`zhao2024unifashion` and Fashion-RAG
{cite}`sanguigni2025fashionrag`; the chapters name the others.

```{bibliography}
```
"""


class Site:
    "The pages' sources on their way to a folder."

    def __init__(self, root, folder):
        self.root, self.folder = root, folder
        bibliography = (root / ".site" / "references.bib").read_text(encoding="utf-8")
        self.settings = settings_of(root)
        self.links = Links(root, self.settings, works_of(bibliography))

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def markdown(self, name, text, page):
        "A page whose links are written as the file `page` of the repository would have them."
        self.write(name, self.links.rewrite(text, page))

    def notebook(self, path, number="", note=""):
        page = path.relative_to(self.root).as_posix()
        content = page_of(read(path), number, lambda text: self.links.rewrite(text, page))
        content["cells"][0]["source"] += f"\n\n{note}"
        self.write(place(page), json.dumps(content))
        self.copy(path)

    def copy(self, path):
        "The copy of a notebook that Colab opens, beside the pages' sources, of which it is none."
        page = path.relative_to(self.root).as_posix()
        content = launch_copy(read(path), page, self.settings, self.root)
        self.write(f"../{COPIES}/{place(page)}", json.dumps(content))


def thumbnail(picture):
    "A PNG, base64, at most 480 pixels wide."
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    image.thumbnail((480, 320))
    file = io.BytesIO()
    image.convert("RGB").quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()


def room(site, path, number):
    "A chapter's page and its entry on the page of its wing."
    site.notebook(path, number)
    notebook = read(path)
    title, line = title_of(notebook)
    pictures = [picture for c in notebook["cells"] if c["cell_type"] == "code" for picture in pictures_of(c)]
    if pictures:
        site.write(f"{path.parent.name}/pictures/{path.stem}.png", thumbnail(pictures[0]))
    shown = f"[![{title}](pictures/{path.stem}.png)]({path.name})\n\n" if pictures else ""
    return f":::{{container}} room\n{shown}**[{number} {title}]({path.name})**\n\n{line}\n:::\n"


def toctree(entries, caption=""):
    head = f":caption: {caption}\n" if caption else ""
    return "```{toctree}\n:hidden:\n:titlesonly:\n" + head + "\n".join(["", *entries]) + "\n```\n"


def wing_page(site, wing, chapters):
    "A wing's page, a picture a chapter; returns its name in the menu."
    name, line = WINGS[wing]
    rooms = [room(site, path, f"{wing[0]}.{int(path.stem[:2])}") for path in chapters]
    gallery = "::::{container} gallery\n" + "\n".join(rooms) + "::::\n"
    menu = toctree([path.stem for path in chapters])
    site.write(f"{wing}/index.md", f"# {name}\n\n> {line}\n\n{gallery}\n{menu}")
    return f"{wing}/index"


def names_pages(site, chapters):
    "A page of exported names a wing; returns their names in the menu."
    pages = {}
    for path in chapters:
        notebook = read(path)
        module, here = module_of(notebook), path.relative_to(site.root).as_posix()
        source = (site.root / "unifashion" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        section = module_section(module, source, f"../{place(here)}", title_of(notebook)[0])
        pages.setdefault(module.split(".")[0], []).append(section)
    for name, sections in pages.items():
        site.write(f"names/{name}.md", f"# unifashion.{name}\n\n" + "\n".join(sections))
    listed = "\n".join(f"* [unifashion.{name}]({name}.md)" for name in pages)
    site.write("names/index.md", f"# API\n\n{NAMES}\n\n{listed}\n\n{toctree(pages)}")


def report_pages(site, reports):
    "The report notebooks; returns title and line of each."
    for path in reports:
        site.notebook(path, note=where_published(site.root, path.stem))
    titles = {path.stem: title_of(read(path)) for path in reports}
    listed = "\n".join(f"* [{title}]({name}.ipynb): {line}" for name, (title, line) in titles.items())
    head = "# Reports\n\nThe notebooks that `make reproduce` runs: each makes one table, figure or training."
    site.write("reports/index.md", f"{head}\n\n{listed}\n\n{toctree(titles)}")
    return titles


def lay(root, folder):
    "Write the sources of all pages. Exits naming every broken link."
    site = Site(root, folder)
    wings = {wing: sorted((root / "nbs" / wing).glob("[0-9]*.ipynb")) for wing in WINGS}
    parts = [wing_page(site, wing, chapters) for wing, chapters in wings.items() if chapters]
    use = sorted(path for path in (root / "nbs").glob("*.ipynb") if path.name != "index.ipynb")
    for path in use:
        site.notebook(path)
    chapters = [path for rooms in wings.values() for path in rooms] + use
    names_pages(site, chapters)
    titles = report_pages(site, sorted((root / "nbs" / "reports").glob("*.ipynb")))
    site.markdown("results.md", results_page(root, site.settings, titles), "results.md")
    guides = [page for page in GUIDES if (root / page).exists()]
    for page in (*guides, "data/README.md", "outputs/README.md"):
        site.markdown(place(page), (root / page).read_text(encoding="utf-8"), page)
    site.write("references.md", REFERENCES)
    menu = toctree(parts, "The book")
    menu += toctree([Path(page).stem for page in guides], "Learning") if guides else ""
    menu += toctree([path.stem for path in use], "Use")
    menu += toctree(["results", "reports/index", "data", "outputs"], "Results and data")
    menu += toctree(["names/index", "references"], "Reference")
    index = root / "nbs" / "index.ipynb"
    front = front_page(read(index), lambda text: site.links.rewrite(text, "nbs/index.ipynb"), menu)
    site.write("index.ipynb", json.dumps(front))
    site.copy(index)
    for picture in site.links.pictures:
        site.write(place(picture), (root / picture).read_bytes())
    if site.links.faults:
        sys.exit("docs: " + "\ndocs: ".join(site.links.faults))


def main():
    try:
        from sphinx.cmd.build import main as sphinx
    except ImportError:
        sys.exit("docs: Sphinx is missing; `make docs` installs it")
    start, cache, target = time.perf_counter(), ROOT / ".cache" / "site", ROOT / "_site"
    shutil.rmtree(cache, ignore_errors=True)
    lay(ROOT, cache / "pages")
    strict = ["-q", "-n", "-W", "--keep-going", "-j", "2"]
    places = ["-c", ROOT / ".site", "-d", cache / "doctrees", cache / "pages", cache / "html"]
    if sphinx([*strict, *map(str, places)]):
        sys.exit("docs: the site is not built; see above")
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(cache / "html", target)
    shutil.move(cache / COPIES, target / COPIES)
    shutil.rmtree(cache)
    pages, files = (list(target.rglob(pattern)) for pattern in ("*.html", "*"))
    size = sum(path.stat().st_size for path in files if path.is_file()) / 1e6
    print(f"docs: {len(pages)} pages, {size:.0f} MB, {time.perf_counter() - start:.0f} s: _site/index.html")


if __name__ == "__main__":
    main()
