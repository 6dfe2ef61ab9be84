"""Links of the notebooks as the site has them: chapters, published runs and files of the repository, and
papers, which become citations. A link to what does not exist is a fault."""

import posixpath, re

CODE = r"(?P<code>(?:```|~~~).*?(?:```|~~~|\Z)|(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
LINK = r"(?P<picture>!?)\[(?P<words>(?:!\[[^\]]*\]\([^)]*\)|[^\]])*)\]\((?P<target>[^)\s]+)\)"
TAG = r"(?P<name>src|href)=\"(?P<value>[^\"]+)\""
PIECE = re.compile(f"{CODE}|{LINK}|{TAG}", re.S)
PUBLISHED = re.compile(r"outputs/published/(\w+)/(\w+)(/table\.md)?$")
PAGES = {"data/README.md": "data.md", "outputs/README.md": "outputs.md"}


def works_of(bibliography):
    "Web addresses of the works in a BibTeX text, each with its key."
    entries = re.findall(r"@\w+\{([\w-]+),(.*?)\n\}", bibliography, re.S)
    found = {key: re.search(r"\burl *= *\{([^}]+)\}", entry) for key, entry in entries}
    return {address[1]: key for key, address in found.items() if address}


def anchor(profile, report):
    "The label of a published run on the page of results."
    return f"{profile}-{report}".replace("_", "-")


def place(path):
    "Where the site has a file of the repository, or None where it has it not. Both from their roots."
    if path in PAGES:
        return PAGES[path]
    if path.startswith("nbs/") and path.endswith((".ipynb", ".md")):
        return path.removeprefix("nbs/")
    if path.startswith(".site/static/"):
        return path.removeprefix(".")
    return path if path.startswith("outputs/published/") and path.endswith(".png") else None


def in_the_repository(settings, kind, path):
    "The web address of what lies at `path`, on the branch of settings.ini. `kind`: tree, blob or raw."
    return f"{settings['git_url']}/{kind}/{settings['branch']}/{path}"


class Links:
    "Rewrites the links of one page after the other; what is wrong with them is gathered in `faults`."

    def __init__(self, root, settings, works):
        self.root, self.settings, self.works = root, settings, works
        self.faults, self.pictures = [], set()

    def rewrite(self, text, page):
        "A page's Markdown with its links as the site has them; code is left alone. `page` is its path here."

        def piece(found):
            if found["code"]:
                return found[0]
            if found["name"]:
                return f'{found["name"]}="{self.address(found["value"], page)}"'
            words = self.rewrite(found["words"], page)
            if found["target"] in self.works:
                return f"{words} {{cite}}`{self.works[found['target']]}`"
            return f"{found['picture']}[{words}]({self.address(found['target'], page)})"

        return PIECE.sub(piece, text)

    def address(self, target, page):
        "Where a link of a page leads on the site."
        if re.match(r"[a-z]+:|#", target):
            return target
        name, _, part = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
        if path.startswith("..") or not (self.root / path).exists():
            self.faults.append(f"{page} links {target}, which does not exist")
            return target
        there = self.there(path, page)
        return there if there.startswith("#") else there + (f"#{part}" if part else "")

    def there(self, path, page):
        "Where the site has what lies at `path`, seen from a page; what it lacks is the repository's."
        published = PUBLISHED.match(path)
        if published and (self.root / path.removesuffix("/table.md") / "run.json").exists():
            return "#" + anchor(*published.groups()[:2])
        there = place(path)
        if not there:
            return self.outside(path)
        if there.endswith(".png"):
            self.pictures.add(path)
        here = posixpath.dirname(place(page) or page)
        return posixpath.relpath(there, here or ".")

    def outside(self, path):
        "Where the repository shows what the site lacks."
        return in_the_repository(self.settings, "tree" if (self.root / path).is_dir() else "blob", path)


class LinksFromAnywhere(Links):
    "Links of a page that is opened elsewhere, as on Colab: all lead into the repository."

    def __init__(self, root, settings):
        super().__init__(root, settings, {})

    def there(self, path, page):
        picture = path.endswith(".png")  # itself, not its page
        return in_the_repository(self.settings, "raw", path) if picture else self.outside(path)
