"""The page of results: everything that is to be reproduced, each published table and figure with the facts of
its run and whether the run is today's, and what was not run."""

import csv, json, posixpath, re, sys

from links import anchor, in_the_repository

PROFILES = {"mini": "Drawn garments", "open": "Real photographs", "paper": "The papers' scale"}
ORDER = ["table", "figure", "audit", "malformed", "efficiency", "memory", "scoreboard", "train", "tune"]


def records(root):
    "Every published run: (profile, report, folder)."
    published = root / "outputs" / "published"
    for path in sorted(published.glob("*/*/**/run.json")):
        profile, report = path.relative_to(published).parts[:2]
        yield profile, report, path.parent


def label_of(profile, report, folder):
    "The label of a run on the page, its seed included."
    seed = "" if folder.name == report else f"-{folder.name.replace('=', '-')}"
    return anchor(profile, report) + seed


def published_runs(root):
    "The published runs: report -> [(profile, folder)]."
    runs = {}
    for profile, report, folder in records(root):
        runs.setdefault(report, []).append((profile, folder))
    return runs


def contents(root):
    "What is to be reproduced, in the order of data/contents.csv: (paper, item, what it shows, report)."
    with (root / "data" / "contents.csv").open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in list(csv.reader(file))[1:]]


def where_published(root, report):
    "A line of links to a report's runs on the page; empty where there are none."
    found = published_runs(root).get(report, [])
    links = [f"[{heading(profile, report, f)}](#{label_of(profile, report, f)})" for profile, f in found]
    return f"Published: {' · '.join(links)}" if links else ""


def heading(profile, report, folder):
    seed = "" if folder.name == report else f", {folder.name.replace('=', ' ')}"
    return f"{PROFILES.get(profile, profile)} (`{profile}`){seed}"


def missing(report, found, titles):
    "A sentence on the scales at which a report was not run; `found` are the profiles at which it was."
    if report not in titles:
        return "*To come: there is no notebook for it yet.*"
    lacking = [profile for profile in PROFILES if profile not in found]
    words = [f"{PROFILES[profile].lower()} (`{profile}`)" for profile in lacking]
    return f"*Not run: {', '.join(words)}.* `make reproduce ONLY={report}` runs it." if lacking else ""


def state_at(report, profile, runs, titles):
    "A cell of the overview: a link to the run, or what is in its place."
    for name, folder in runs.get(report, []):
        if name == profile:
            return f"[made](#{label_of(profile, report, folder)})"
    return "not run" if report in titles else "to come"


def overview(root, runs, titles):
    "A table of everything that is to be reproduced, with its state at each scale."
    lines = [["", *PROFILES.values()], ["---"] * (1 + len(PROFILES))]
    for paper, item, shows, report in contents(root):
        states = [state_at(report, profile, runs, titles) for profile in PROFILES]
        lines.append([f"{paper}, {item}: {shows}", *states])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rank(report):
    found = [i for i, start in enumerate(ORDER) if report.startswith(start)]
    return (found[0] if found else len(ORDER), report)


def is_todays(record, folder, root):
    "Whether today's code and settings are those that made a run, as the front page says it."
    sys.path.insert(0, str(root))
    from unifashion.evidence.front_page import Published, is_current

    return is_current(Published(folder, record), root / "outputs" / "published")


def state(todays):
    "A sentence where the run is not today's."
    return "" if todays else "*Earlier code or settings made it: `make reproduce` would run it anew.*"


def facts(record):
    "When, where and from what a run was made, in a line."
    given = record["parameters"]
    seeds = given.get("seeds", given.get("seed"))
    where = record["cpu"] if record["device"] == "cpu" else record["device"]
    parts = [
        record["started"][:10],
        f"{where}, {record['seconds']:,.0f} s",
        f"commit `{record['commit'][:7]}`",
        "every row" if given.get("full") else "the core's rows",
        "" if seeds is None else f"seeds {seeds}" if " " in str(seeds) else f"seed {seeds}",
    ]
    return " · ".join(part for part in parts if part)


def lowered(markdown, by):
    "A table's Markdown with its headings so many levels lower, its first heading left out."
    text = re.sub(r"\A\s*#+ .*\n", "", markdown)
    return re.sub(r"^(#+) ", lambda found: "#" * min(6, len(found[1]) + by) + " ", text, flags=re.M)


def rooted(markdown, place):
    "A published page's links to other pages, as the repository's root has them. `place` is its folder."
    at_root = lambda found: f"]({posixpath.normpath(posixpath.join(place, found[1]))}"
    return re.sub(r"\]\((\.\./[^)#]+)", at_root, markdown)


def run_section(profile, report, folder, root, settings):
    "One run: label, heading, facts, table, figures; paths are the repository's."
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    place = folder.relative_to(root).as_posix()
    address = in_the_repository(settings, "blob", place)
    links = [f"[the notebook](nbs/reports/{report}.ipynb)", f"[as it ran]({address}/executed.ipynb)"]
    if (folder / "table.csv").exists():
        links.append(f"[the numbers]({address}/table.csv)")
    parts = [f"({label_of(profile, report, folder)})=\n### {heading(profile, report, folder)}"]
    parts.append(f"{facts(record)} · {' · '.join(links)}\n\n{state(is_todays(record, folder, root))}")
    parts += [f"![{picture.stem}]({place}/{picture.name})" for picture in sorted(folder.glob("fig_*.png"))]
    if (folder / "table.md").exists():
        parts.append(lowered(rooted((folder / "table.md").read_text(encoding="utf-8"), place), 1))
    elif not list(folder.glob("fig_*.png")):
        parts.append("Neither a table nor a figure: the notebook as it ran holds what there is.")
    return "\n\n".join(parts)


def results_page(root, settings, titles):
    "The page's Markdown, as it would stand at the repository's root. `titles`: report -> (title, line)."
    runs = published_runs(root)
    parts = [
        "# Results\n\nEvery published table and figure, with the run that made it. Numbers of the drawn "
        "world (`mini`) and of the open photographs (`open`) answer whether an idea works; they stand "
        "beside the papers' numbers, never against them. How a run is read, and what its files hold: "
        "[outputs](outputs/README.md)."
    ]
    asked = {report: (item, shows) for _, item, shows, report in contents(root)}
    parts.append(overview(root, runs, titles))
    for report in sorted({*runs, *asked}, key=rank):
        title, line = titles.get(report) or asked[report]
        parts.append(f"## {title}\n\n{line}")
        found = runs.get(report, [])
        parts += [run_section(profile, report, folder, root, settings) for profile, folder in found]
        if report in asked:
            parts.append(missing(report, {profile for profile, _ in found}, titles))
    return "\n\n".join(part for part in parts if part) + "\n"
