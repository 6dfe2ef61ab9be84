# The reports as a graph: one rule a report, read from the headers in nbs/reports
# (nbs/0_ground/11_keys.ipynb).
# `unifashion reproduce` calls this. By hand, or on a cluster: snakemake --cores 2 --config profile=mini
import os, shlex, sys

from unifashion.ground.core import load_profile
from unifashion.ground.execution import WATCHED, end_with_parent
from unifashion.ground.keys import plan

end_with_parent()                      # the process that started this one, where it says so
os.environ[WATCHED] = str(os.getpid())  # jobs end with this process


def given(name, default=""):
    return str(default if config.get(name) is None else config[name])


profile = given("profile", "mini")
full = bool(int(given("full", 0)))
seeds, only, words = given("seeds"), given("only"), given("set")
nodes = plan(profile, full, seeds, only.split(), words.split())
reports = {}
for node in nodes:
    reports.setdefault(node.header.report, {})[str(node.seed)] = node


def upstream(by_seed):  # a key covers what it follows, so times of files decide nothing: `ancient`
    return lambda wildcards: [ancient(str(up.stamp)) for up in by_seed[wildcards.get("seed", "None")].reads]


def call(report, by_seed):
    def line(wildcards):
        node = by_seed[wildcards.get("seed", "None")]
        own = str(node.seed) if node.seed is not None else node.parameters.get("seeds", "0")
        words_of_call = [sys.executable, "-m", "unifashion.app", "node", report, "--profile", profile,
                         "--seeds", own, "--key", wildcards.key]
        if full:
            words_of_call.append("--full")
        if report == only and words:
            words_of_call += ["--set", *words.split()]
        return shlex.join(words_of_call)
    return line


def stamp(node):
    return str((node.folder.parent / "seed={seed}" if node.seed is not None else node.folder) / "{key}.done")


def threads_of(node):
    return load_profile(profile).machine.threads if "machine" in node.header.sections else 1


wildcard_constraints:
    seed=r"\d+",
    key="[0-9a-f]+",


rule all:
    input: [str(node.stamp) for node in nodes]


for report, by_seed in reports.items():
    rule:
        name: report
        input: upstream(by_seed)
        output: stamp(next(iter(by_seed.values())))
        params: call=call(report, by_seed)
        threads: threads_of(next(iter(by_seed.values())))
        # reports that compute take turns
        resources: gpu=int("machine" in next(iter(by_seed.values())).header.sections)
        shell: "exec {params.call}"
