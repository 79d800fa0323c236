"""TeX formulas to MathML while a report is built, so that its reader needs no script and no network."""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree

from latex2mathml.converter import convert

from gemma_encoder.errors import InputError

# The converter passes over what it does not know, so its answer is checked: elements have their fixed number of parts.
PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
XMLNS = ' xmlns="http://www.w3.org/1998/Math/MathML"'  # HTML needs none, and it would read as a remote address


def mathml(tex: str, display: bool = False) -> str:
    """The formula as a `<math>` element that keeps its TeX as alternative text; InputError if that cannot be."""
    try:
        html = convert(tex.strip(), display="block" if display else "inline").replace(XMLNS, "", 1)
        root = ElementTree.fromstring(html)
    except Exception as error:  # the converter has its own exceptions and lets IndexError and others through
        raise InputError(f"formula {tex!r} cannot be converted to MathML: {type(error).__name__}") from None
    incomplete = any(len(node) != PARTS.get(node.tag, len(node)) for node in root.iter())
    if "\\" in html or incomplete:
        raise InputError(f"formula {tex!r} cannot be converted to MathML: unknown command or missing argument")
    return html.replace("<math ", f'<math alttext="{escape(tex.strip())}" ', 1)
