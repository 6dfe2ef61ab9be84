"""Package metadata lives in settings.ini, nbdev's file; this hands it to setuptools."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser()
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
s = config["DEFAULT"]
setup(
    name=s["lib_name"],
    version=s["version"],
    description=s["description"],
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=s["author"],
    url=s["git_url"],
    license=s["license"].upper(),
    keywords=s["keywords"],
    python_requires=f">={s['min_python']},<3.14",
    packages=find_packages(include=["unifashion", "unifashion.*"]),
    install_requires=s["requirements"].split(),
    extras_require={name: s[f"{name}_requirements"].split() for name in ("dev", "search", "demo")},
    entry_points={"console_scripts": s["console_scripts"].split()},
)
