"""Sphinx's settings for the pages that build.py lays."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from launch import colab_address, settings_of

settings = settings_of(Path(__file__).resolve().parent.parent)
project = "UniFashion and Fashion-RAG"
author = "The UniFashion notebooks authors"
copyright = "the UniFashion notebooks authors, MIT licence"
language = "en"
html_title = project
extensions = ["myst_nb", "sphinxcontrib.bibtex", "sphinx.ext.mathjax"]

nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
myst_update_mathjax = False
bibtex_bibfiles = [str(Path(__file__).with_name("references.bib"))]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"
add_module_names = False
toc_object_entries = False  # they would be copied into every page's menu, and double the time of a build
highlight_language = "none"
python_maximum_signature_line_length = 90

html_theme = "sphinx_book_theme"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {
    "repository_url": settings["git_url"],
    "repository_branch": settings["branch"],
    "path_to_docs": settings["nbs_path"],
    "launch_buttons": {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
        "notebook_interface": "jupyterlab",
    },
    "use_repository_button": True,
    "use_download_button": False,
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "collapse_navbar": True,  # all chapters on each page would cost minutes
    "logo": {"text": project},
    "navbar_persistent": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}

# formulas without a network: MathJax as Jupyter's package carries it, copied beside the pages
mathjax_path = "mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"
mathjax2_config = {
    "showMathMenu": False,
    "messageStyle": "none",
    "tex2jax": {"inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]], "processClass": "math"},
    "HTML-CSS": {"preferredFont": None, "availableFonts": [], "webFont": "STIX-Web", "imageFont": None},
}


def copy_mathjax(app, error):
    "What the pages load of MathJax."
    source = Path(find_spec("jupyter_server_mathjax").submodule_search_locations[0]) / "static"
    left_out = shutil.ignore_patterns("localization", "a11y", "SVG")
    if not error:
        shutil.copytree(source, Path(app.outdir) / "_static" / "mathjax", ignore=left_out)


def colab_opens_the_copy(app, pagename, templatename, context, doctree):
    "Point the Colab button at the copy that brings its own set-up."
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Colab":
                button["url"] = colab_address(settings, pagename)


def setup(app):
    app.connect("html-page-context", colab_opens_the_copy, priority=900)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
