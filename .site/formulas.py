"""A Sphinx extension that draws formulas when the site is built, so that a page shows them without a
network or a script. A command that is not known is a warning, and so fails the build."""

import html, re

from docutils import nodes
from sphinx.util import logging

SIZE = 16
BOX = re.compile(r'width="([\d.]+)" height="([\d.]+)" viewBox="[-\d.]+ ([-\d.]+) ')
SYMBOL = re.compile(r'<symbol id="([^"]+)".*?</symbol>', re.S)


def unknown_commands(latex):
    "Commands that stay as they are on the way from LaTeX to MathML."
    from latex2mathml.converter import convert

    return re.findall(r">(\\[a-zA-Z]+)<", convert(latex))


def drawn(latex, inline):
    "A formula as SVG in the text's size and colour, on its line. Raises `ValueError` for unknown commands."
    from ziamath import Latex

    missing = unknown_commands(latex)
    if missing:
        raise ValueError(f"unknown {', '.join(missing)} in the formula {latex}")
    svg = Latex(latex, size=SIZE, inline=inline).svg().replace('fill="black"', 'fill="currentColor"')
    width, height, top = (float(number) / SIZE for number in BOX.search(svg).groups())
    style = f"width:{width:.3f}em;height:{height:.3f}em;vertical-align:{-(height + top):.3f}em"
    label = html.escape(latex, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{style}" ', 1)


def once(svg, seen):
    "The SVG without the glyphs that stand on the page already."

    def glyph(found):
        return "" if found[1] in seen or seen.add(found[1]) else found[0]

    return SYMBOL.sub(glyph, svg)


def put(translator, node, inline):
    "Write a formula into a page."
    try:
        svg = drawn(node.astext().strip(), inline)
    except Exception as error:  # whatever the two libraries raise for a torn formula
        logging.getLogger(__name__).warning("%s", error, location=node)
        svg = html.escape(node.astext())
    glyphs = translator.__dict__.setdefault("formula_glyphs", set())
    name = "span" if inline else "div"
    translator.body.append(f'<{name} class="math notranslate nohighlight">{once(svg, glyphs)}</{name}>')


def visit_math(translator, node):
    put(translator, node, inline=True)
    raise nodes.SkipNode


def visit_math_block(translator, node):
    put(translator, node, inline=False)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("drawn", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
