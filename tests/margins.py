"""How far trained toys stay from what is claimed of them, on each kind of processor: `make margins`."""

import ast
import contextlib
import itertools
import json
import operator
import os
import subprocess
import sys
import tempfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = [p for p in sorted(ROOT.glob("nbs/**/[0-9]*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
TESTS = sorted(ROOT.glob("tests/**/test_*.py"))
CAPABILITIES, THREADS, SEEDS = ("default", "avx2", "avx512"), (1, 2), (0, 1, 2)
HOLDS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
SIGNS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<="}
TURNED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
CHILD = "import sys, margins; margins.answer(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])"

# place: a chapter's module or a test file; measured: as an assert there writes it, beside the threshold;
# blind: what a model gives that has learned nothing, or sees nothing
Margin = namedtuple("Margin", "place measured blind words")
MARGINS = [
    Margin("train", 'history["accuracy"][-20:].mean()', 1 / 2, "points given their arm of the spiral"),
    Margin("tower", 'card["metrics"]["text-image R@1"]', 1 / 54, "own text of 54 comes first"),
    Margin("tower", 'card["metrics"]["blocks: length"]', 1 / 3, "lengths named rightly, of three"),
    Margin("attribute_reader", 'card["metrics"]["blocks: length"]', 1 / 3, "lengths named rightly, of three"),
    Margin("autoencoder", "gain", 0, "dB above the principal components"),
    Margin("autoencoder", "recovered", 0, "dB won back from noisy latents"),
    Margin("unet", "right", 1 / 6, "colours painted as asked, of six"),
    Margin("scorer", 'card["metrics"]["blocks: own text first, of 54"]', 1 / 54, "own text first, of 54"),
    Margin("retriever", "share", 1 / 27, "own picture first, of 27"),
    Margin("language_models", "wavering", 1, "perplexity of pages, in that without context"),
    Margin("pretrain", "recall[1]", 1 / 54, "own text of 54 comes first, after phase 1"),
    Margin("generic_qformer", 'card["metrics"]["own caption first"]', 1 / 6, "own colour of six first"),
    Margin("language", "left", 1, "loss with queries, in that without"),
    Margin("language", "right", 1 / 24, "short captions, of 24, word for word"),
    Margin("captioning", "right", 1 / 24, "captions, of 24 in each style, word for word"),
    Margin(
        "retrieval_baselines",
        'curves["UniFashion phase 1 (ours)"][9]',
        1000 / 54,
        "own text of 54 in the first ten, percent",
    ),
    Margin("compose", "right", 1 / 54, "own target of 54 comes first, held-out queries"),
    Margin("composed_baselines", "right", 1 / 100, "own target of 100 comes first, by the Combiner"),
    Margin("test_train", "loss_left(run(tmp_path)[1])", 1, "loss of the last steps, in that of the first"),
    Margin("test_pretrain", "colours_found(tmp_path)", 1 / 4, "own colour of four comes first"),
    Margin("test_pretrain", "verdict_losses(tmp_path)[-10:].mean()", 0.637, "ITM's loss; blind: a guess"),
]
# what takes gradients, and why nothing is claimed there of how well it learns
NOT_LEARNING = {
    "checkpoints": "two steps, compared bit by bit",
    "losses": "one gradient, of a number",
    "test_losses": "gradients, and a number pushed against its bounds",
    "test_autoencoder": "four steps, stored and opened",
    "test_attribute_reader": "three steps, stored and opened",
    "test_latents": "one gradient, of a convolution",
    "test_unet": "one gradient, that reaches every weight, and steps that change nothing",
    "painting": "one number, whose best value is a mean",
    "test_beside_text": "four steps, to see what moves",
    "denoising": "twelve steps, to see what moves",
    "learned": "four steps, to see what moves",
    "test_learned": "three steps, to see what moves",
    "logos": "two steps a stage, to see what is shown",
    "test_diffusion": "a few gradients, to see what they reach",
    "jointly": "twelve steps, to see what learns",
    "test_jointly": "one gradient, and two steps",
    "own_pictures": "a few steps, so that there is a captioner to show",
    "test_foundations": "a few steps, compared bit by bit",
    "test_compose": "a few gradients, to see what they reach, and three steps",
    "test_composed_baselines": "three steps, for unit vectors",
    "test_language": "four steps, compared bit by bit",
    "test_retriever": "gradients alone",
    "rag/model": "which weights get gradients",
    "test_editor": "a few steps, to see which weights move",
    "test_inversion": "gradients alone",
    "test_memory_curve": "two steps, to see what they hold",
}


def source_of(place):
    "The file of a chapter's module, whatever its number, or of a test; with its wing where names repeat."
    wing, _, name = place.rpartition("/")
    found = [path for path in CHAPTERS
             if path.stem.split("_", 1)[1] == name and path.parent.name.endswith(wing)]
    found += [path for path in TESTS if path.stem == place]
    if len(found) != 1:
        raise ValueError(f"{place}: {len(found)} files of that name")
    return found[0]


def cells_of(path):
    "Source of each code cell; a test file is one cell."
    if path.suffix == ".py":
        return [path.read_text(encoding="utf-8")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def bounds_in(source, measured):
    "Sign and threshold, wherever an assert of this source compares what is measured with a number."
    wanted = ast.unparse(ast.parse(measured, mode="eval"))
    asserts = [node.test for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    for node in itertools.chain.from_iterable(map(ast.walk, asserts)):
        if not isinstance(node, ast.Compare):
            continue
        sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
        for left, sign, right in zip(sides, [SIGNS.get(type(op)) for op in node.ops], sides[1:]):
            if sign and left == wanted:
                yield sign, float(right)
            if sign and right == wanted:
                yield TURNED[sign], float(left)


def claim(margin):
    "(number of the cell, sign, threshold): the place's own assert. Raises `ValueError` unless there is one."
    found = []
    for number, source in enumerate(cells_of(source_of(margin.place))):
        found += [(number, *bound) for bound in bounds_in(source, margin.measured)]
    if len(found) == 1:
        return found[0]
    raise ValueError(f"{margin.place}: {len(found)} asserts compare {margin.measured} with a number")


def shift_seeds(seed):
    "From here on torch's seeds and those of the project's streams are so many thousands further."
    import torch

    from unifashion.ground import core

    def shifted(function):
        def call(first, *names):
            return function(int(first) + 1000 * seed, *names)

        return call

    torch.manual_seed, core.stream = shifted(torch.manual_seed), shifted(core.stream)


def values_at(place, threads):
    "Run a place's cells, without their asserts, and take each of its measures where the assert stands."
    import torch

    claims = {margin.measured: claim(margin)[0] for margin in MARGINS if margin.place == place}
    path, values = source_of(place), {}
    space = {"__name__": "__main__"}
    for number, source in enumerate(cells_of(path)[: max(claims.values()) + 1]):
        torch.set_num_threads(threads)
        exec(compile(source, f"{path.name}, code cell {number}", "exec", optimize=1), space)
        torch.set_num_threads(threads)
        for measured in (name for name, cell in claims.items() if cell == number):
            values[measured] = float(eval(measured, space | {"tmp_path": Path(tempfile.mkdtemp())}))
    return values


def answer(seed, threads, places):
    "What a process of its own does: measure, and print the values as JSON."
    import torch

    wanted, got = os.environ["ATEN_CPU_CAPABILITY"], torch.backends.cpu.get_cpu_capability().lower()
    if got != wanted:
        raise RuntimeError(f"{wanted} was asked for, torch uses {got}")
    shift_seeds(seed)
    os.chdir(ROOT / "nbs")
    with contextlib.redirect_stdout(sys.stderr):
        values = {place: values_at(place, threads) for place in places}
    print(json.dumps(values))


def measure(run, places):
    "Values of one run (capability, threads, seed), in a process and with a cache of its own."
    capability, threads, seed = run
    command = [sys.executable, "-c", CHILD, str(seed), str(threads), *places]
    with tempfile.TemporaryDirectory(prefix="unifashion-margins-") as folder:
        own = {
            "ATEN_CPU_CAPABILITY": capability,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        own |= {
            "PYTHONHASHSEED": "0",
            "CUDA_VISIBLE_DEVICES": "",
            "UNIFASHION_CACHE": folder,
            "TMPDIR": folder,
        }
        env = os.environ | own
        done = subprocess.run(command, cwd=ROOT / "tests", env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{named(run)} ended badly\n{done.stderr[-3000:]}")
    values = json.loads(done.stdout)
    print(f"{named(run)}: {values}", file=sys.stderr, flush=True)
    return values


def named(run):
    return f"{run[0]}, {run[1]} thread{'s' if run[1] > 1 else ''}, seed {run[2]}"


def at_hand():
    "The capabilities that this processor has, torch's plain code first."
    import torch

    os.environ.pop("ATEN_CPU_CAPABILITY", None)
    best = torch.backends.cpu.get_cpu_capability().lower()
    return CAPABILITIES[: CAPABILITIES.index(best) + 1] if best in CAPABILITIES else CAPABILITIES[:1]


def measure_all(capabilities, places):
    "run -> place -> measured -> value; as many processes at once as the cores carry."
    found = {}
    for threads in THREADS:
        runs = list(itertools.product(capabilities, [threads], SEEDS))
        with ThreadPoolExecutor(max(1, os.cpu_count() // threads)) as pool:
            found |= zip(runs, pool.map(measure, runs, itertools.repeat(places)))
    return found


def row_of(margin, found):
    "One line of the table. Clear: the worst run is beyond the threshold by half its distance from blind."
    _, sign, threshold = claim(margin)
    values = {run: measured[margin.place][margin.measured] for run, measured in found.items()}
    order = sorted(values, key=values.get, reverse=sign[0] == "<")
    worst, best = values[order[0]], values[order[-1]]
    clear = HOLDS[sign](worst, threshold) and abs(worst - threshold) >= abs(threshold - margin.blind) / 2
    place = source_of(margin.place).stem
    numbers = [f"{number:.3g}" for number in (margin.blind, worst, best)]
    verdict = "clear" if clear else "NOT CLEAR"
    return [place, margin.words, f"{sign} {threshold:g}", *numbers, named(order[0]), verdict]


def show(rows):
    "A table with columns of even width."
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def main(places):
    capabilities = at_hand()
    missing = [name for name in CAPABILITIES if name not in capabilities]
    print(f"this processor has {', '.join(capabilities)}")
    if missing:
        print(f"SKIPPED, for this processor lacks them: {', '.join(missing)}")
    margins = [margin for margin in MARGINS if not places or margin.place in places]
    found = measure_all(capabilities, list(dict.fromkeys(margin.place for margin in margins)))
    rows = [row_of(margin, found) for margin in margins]
    print(f"{len(found)} runs: each capability with 1 and 2 threads and {len(SEEDS)} seeds")
    show([["place", "measured", "claim", "blind", "worst", "best", "worst run", ""], *rows])
    return any(row[-1] != "clear" for row in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
