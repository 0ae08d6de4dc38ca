"""Text of a run inside Markdown: it never becomes a link, an image, HTML or a block of its own."""

from __future__ import annotations

import re

_SPECIAL = re.compile(
    r"(?P<interval>\[[−+., -]*\d[−+\d., -]*\](?![(\[:]))"
    r"|[\\`*{}\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])"
)
_START = re.compile(r"\d{1,9}(?=[.)](?:\s|$))|(?=[-+=#]+(?:\s|$))")
"""Behind which a backslash keeps a line from being a list, a heading, a rule or an underline."""

_BARE = re.compile(r":(?=//)|(?<=www)\.|(?<=mailto):|(?<=xmpp):|@(?=\w)", re.IGNORECASE)
"""What makes GitHub link an address that stands bare in the text."""


def escape(value: object) -> str:
    """Text on one line, for a table cell or anywhere in a paragraph, shown as it stands."""
    flat = " ".join(str(value).split())
    flat = _SPECIAL.sub(lambda found: found["interval"] or "\\" + found[0], flat)
    flat = _BARE.sub(r"\\\g<0>", flat)
    start = _START.match(flat)
    return f"{start[0]}\\{flat[start.end() :]}" if start else flat


def fenced(code: str) -> str:
    """A code block; the fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{code}\n{fence}"
