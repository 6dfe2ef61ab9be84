# The reports as a graph: one rule a report, read from the headers in nbs/reports
# (nbs/0_ground/11_keys.ipynb).
# `unifashion reproduce` calls this. By hand: snakemake --cores 2 --resources turn=1 --config profile=mini
# On a cluster: nbs/0_ground/17_cluster.ipynb
import os
import shlex
import sys

from unifashion.ground.cluster import gpus_of, needs
from unifashion.ground.core import load_profile
from unifashion.ground.execution import WATCHED, end_with_parent
from unifashion.ground.keys import plan
from unifashion.ground.locks import this_process

end_with_parent()  # the process that started this one, where it says so
os.environ[WATCHED] = this_process()  # jobs of this machine end with this process
for name in ("UNIFASHION_CACHE", "UNIFASHION_DATA"):
    if name in os.environ:
        workflow.register_envvars(name)  # where jobs have an environment of their own


def listed(value):
    "Words of a setting: a list as it is; a line, as one writes it by hand, at its blanks."
    return value if isinstance(value, list) else str("" if value is None else value).split()


profile = config.get("profile", "mini")
full = bool(int(config.get("full", 0)))
gpus = int(config.get("gpus", gpus_of(profile)))
seeds = listed(config.get("seeds")) or None
only = listed(config.get("only"))
settings = listed(config.get("set"))
nodes = plan(profile, full, seeds, only, settings)
reports = {}
for node in nodes:
    reports.setdefault(node.header.report, {})[str(node.seed)] = node


def upstream(by_seed):
    "Stamps of what a report reads. A key covers it, so times of files decide nothing: `ancient`."

    def stamps(wildcards):
        node = by_seed[wildcards.get("seed", "None")]
        return [ancient(str(above.stamp)) for above in node.reads]

    return stamps


def call(report, by_seed):
    "The command line of a report's job. Words are quoted one by one, whatever they hold."

    def line(wildcards):
        node = by_seed[wildcards.get("seed", "None")]
        own = node.parameters.get("seeds", "0") if node.seed is None else str(node.seed)
        words = [sys.executable, "-m", "unifashion.app", "node", report, "--profile", profile]
        words += ["--seeds", own, "--key", wildcards.key]
        if full:
            words.append("--full")
        if only == [report] and settings:
            words += ["--set", *settings]
        return shlex.join(words)

    return line


def stamp(node):
    "Where a report's stamp lies, with wildcards for seed and key."
    folder = node.folder if node.seed is None else node.folder.parent / "seed={seed}"
    return str(folder / "{key}.done")


def computes(node):
    return "machine" in node.header.sections


def threads_of(node):
    return load_profile(profile).machine.threads if computes(node) else 1


def asks(by_seed):
    "What a job asks of its machine, more memory when it is run again. On one, those that compute take turns."
    wanted = needs(list(by_seed.values()), gpus)
    memory = wanted["mem_mb"]
    turn = int(computes(next(iter(by_seed.values()))))
    return wanted | {"mem_mb": lambda wildcards, attempt: memory * attempt, "turn": turn}


wildcard_constraints:
    seed=r"\d+",
    key="[0-9a-f]+",


rule all:
    input: [str(node.stamp) for node in nodes]


for report, by_seed in reports.items():
    first = next(iter(by_seed.values()))

    rule:
        name: report
        input: upstream(by_seed)
        output: stamp(first)
        params: call=call(report, by_seed)
        threads: threads_of(first)
        resources: **asks(by_seed)
        shell: "exec {params.call} --stamp {output:q}"
