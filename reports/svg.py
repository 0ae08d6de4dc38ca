"""One multi-panel SVG as several that a narrow page can stack, in the colours of the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree as Tree

from reports.style import THEMED

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

_COLOUR = re.compile("|".join(THEMED), re.IGNORECASE)
_FONT = re.compile(r"font: (?:(bold|italic|\d+) )?([\d.]+)px [^;]*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def split(svg: str, boxes: dict[str, tuple[float, float, float, float]], alts: list[str]) -> str:
    """Cut a figure into inline SVG elements, one a panel.

    Args:
        svg: a file written by matplotlib.
        boxes: id of each panel's group to its x, y, width and height in the user units (points)
            of the file, y downwards.
        alts: the text alternative of each panel, in the order of ``boxes``.

    Returns:
        The elements one after the other. Definitions (markers, clip paths) are shared between
        them, which HTML allows inside one document, so they belong on the same page.
    """
    root = Tree.fromstring(svg)
    used = _referenced(root)
    # Two figures may need the same clip path; one page must not hold one id twice.
    prefix = next(iter(boxes)) + "-"
    for element in root.iter():
        _simplify(element, used, prefix)
    groups = {g.get("data-panel"): g for g in root.iter(f"{{{SVG}}}g")}
    shared = [d for d in root if d.tag == f"{{{SVG}}}defs"]
    parts = []
    for (gid, (x, y, width, height)), alt in zip(boxes.items(), alts, strict=True):
        panel = Tree.Element(f"{{{SVG}}}svg", {"viewBox": f"{x:g} {y:g} {width:g} {height:g}"})
        panel.set("style", f"aspect-ratio: {width:g} / {height:g}; --natural: {width:g}")
        panel.set("role", "img")
        Tree.SubElement(panel, f"{{{SVG}}}title").text = alt
        panel.extend(shared)
        shared = []
        panel.append(groups[gid])
        parts.append(_markup(panel))
    return "\n".join(parts)


def _referenced(root: Tree.Element) -> set[str]:
    """Ids that something points to; all others would only collide between the page's figures."""
    used = set()
    for element in root.iter():
        target = element.get(f"{{{XLINK}}}href", "")
        if target.startswith("#"):
            used.add(target[1:])
        for value in element.attrib.values():
            used.update(_REFERENCE.findall(value))
    return used


def _simplify(element: Tree.Element, used: set[str], prefix: str) -> None:
    """Page colours and the page's font instead of fixed ones; unused ids go."""
    name = element.get("id", "")
    if name.startswith("panel-"):
        element.set("data-panel", name)
    if name in used:
        element.set("id", prefix + name)
    elif name:
        del element.attrib["id"]
    target = element.attrib.pop(f"{{{XLINK}}}href", "")
    if target:
        element.set("href", f"#{prefix}{target[1:]}" if target.startswith("#") else target)
    for attribute, value in element.attrib.items():
        if "url(#" in value:
            element.set(attribute, _REFERENCE.sub(rf"url(#{prefix}\1)", value))
    style = element.get("style")
    if style:
        style = _FONT.sub(_font, style)
        element.set("style", _COLOUR.sub(_variable, style))
    if element.tag == f"{{{SVG}}}style":
        element.text = ""  # matplotlib's global rule would reach every other figure of the page


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"


def _variable(match: re.Match[str]) -> str:
    return f"var(--{THEMED[match[0].lower()]})"


def _markup(element: Tree.Element) -> str:
    text = Tree.tostring(element, encoding="unicode")
    return re.sub(r"<(/?)ns\d+:", r"<\1", re.sub(r'\sxmlns:ns\d+="[^"]*"', "", text))
