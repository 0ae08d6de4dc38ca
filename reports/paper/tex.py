"""Text as LaTeX prints it, and how wide it gets: what a table needs to know before a compiler.

Widths are those of Computer Modern, in which LaTeX sets a document that asks for nothing else; the
Times of most conferences is narrower.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

MATH = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta",
    "η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi",
    "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Π": "Pi",
    "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega", "×": "times", "·": "cdot",
    "→": "rightarrow", "←": "leftarrow", "↓": "downarrow", "↑": "uparrow", "≈": "approx",
    "≥": "geq", "≤": "leq", "±": "pm", "∞": "infty", "▲": "uparrow", "▼": "downarrow",
    "µ": "mu", "≠": "neq", "∈": "in",
}  # fmt: skip
ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": "$|$", "[": "{[}", "]": "{]}", '"': r"{''}", "`": r"\`{}",
    "−": "$-$", "–": "--", "—": "---", "…": r"\dots{}", "≯": r"$\not>$", "²": "$^2$",
    "³": "$^3$", "†": r"$\dagger$", "‡": r"$\ddagger$", "‘": "`", "’": "'", "“": "``",
    "”": "''", "\u00a0": "~", "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}",
    "Ł": r"\L{}", "æ": r"\ae{}", "Æ": r"\AE{}",
    **{sign: rf"$\{name}$" for sign, name in MATH.items()},
}  # fmt: skip
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip

_WIDTHS = {
    278: "il.,;:!'[]|`", 306: "fj", 333: "- ", 361: "I", 389: "t()", 392: "r", 394: "s",
    444: "cez", 500: "ago0123456789/*$", 514: "J", 528: "kqvxy", 556: "bdhnpuS", 611: "Z",
    625: "L", 653: "F", 681: "EP", 708: "B", 722: "CTw", 736: "R", 750: "AHNUVXY",
    764: "D", 778: "GKOQ&@+=<>−×±≥≤≈", 833: "m%#", 917: "M", 1028: "W",
}  # fmt: skip
WIDTHS = {sign: width / 1000 for width, signs in _WIDTHS.items() for sign in signs}
"""Of cmr10 (its .tfm file), in units of the font size."""
WIDEST = 1.028
LIKE = {"–": "a", "γ": "Z", "_": "I", "…": "....", "\\": "a", "{": "a", "}": "a", "~": "a"}
"""Signs that take as much space as these letters."""
BOLD = 1.15
"""cmbx10 to cmr10."""
POINTS = {"normalsize": 10.0, "small": 9.25, "footnotesize": 8.5, "scriptsize": 7.97}
"""What 1 in `WIDTHS` is at a 10-point document's sizes: small designs of the font are wider."""


@dataclass(frozen=True)
class Piece:
    """Something in a cell: its code, and its width in units of the table's and the fine size."""

    code: str = ""
    wide: float = 0.0
    fine: float = 0.0

    def __add__(self, other: Piece) -> Piece:
        return Piece(self.code + other.code, self.wide + other.wide, self.fine + other.fine)

    def points(self, size: str) -> float:
        """Its width at a font size of the table."""
        return self.wide * POINTS[size] + self.fine * POINTS["scriptsize"]


def piece(text: str) -> Piece:
    return Piece(escape(text), width(text))


def fine(text: str) -> Piece:
    """In the smallest size, which does not change with the table's."""
    return Piece(rf"{{\scriptsize {escape(text)}}}", fine=width(text)) if text else Piece()


def space() -> Piece:
    return Piece(" ", WIDTHS[" "])


def bold(one: Piece) -> Piece:
    return Piece(rf"\textbf{{{one.code}}}", one.wide * BOLD, one.fine * BOLD)


def underlined(one: Piece) -> Piece:
    return Piece(rf"\underline{{{one.code}}}", one.wide, one.fine)


def italic(one: Piece) -> Piece:
    return Piece(rf"\emph{{{one.code}}}", one.wide, one.fine)


def raised(mark: str) -> Piece:
    """A superscript, set in the fine size at most."""
    return Piece(rf"\textsuperscript{{{escape(mark)}}}", fine=width(mark)) if mark else Piece()


def hanging(mark: str) -> Piece:
    """A superscript that takes no space, so that numbers stay below each other."""
    return Piece(rf"\rlap{{{raised(mark).code}}}")


def width(text: str) -> float:
    """Of one line in units of the font size; what is not known counts as the widest letter."""
    return sum(WIDTHS.get(one, WIDEST) for sign in text for one in _set_as(sign))


def _set_as(sign: str) -> str:
    """Letters that take as much space as a sign does when it is printed."""
    if sign in WIDTHS or sign in ESCAPES:
        return LIKE.get(sign, sign)
    shown = _escaped(sign)
    return shown if shown.startswith("(U+") else unicodedata.normalize("NFD", sign)[0]


def escape(text: str) -> str:
    """Text that any pdflatex prints as it stands; control characters go.

    A sign that no font of a plain document has (Chinese, emoji) is named by its code point.
    """
    flat = " ".join(text.split())
    return "".join(_escaped(sign) for sign in flat if sign.isprintable())


def _escaped(sign: str) -> str:
    if sign in ESCAPES:
        return ESCAPES[sign]
    if sign.isascii():
        return sign
    parts = unicodedata.normalize("NFD", sign)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in ACCENTS:
        stem = {"i": r"\i", "j": r"\j"}.get(parts[0], parts[0])
        return rf"\{ACCENTS[parts[1]]}{{{stem}}}"
    return f"(U+{ord(sign):04X})"


def breakable(text: str, widest: float = 6.0) -> str:
    """Escaped text in which words wider than so many ems may break, behind a sign if they can."""
    words = []
    for word in text.split():
        code, run = "", 0.0
        for sign in word if width(word) > widest else ():
            code, run = code + escape(sign), run + width(sign)
            if not sign.isalnum() or run >= widest / 2:
                code, run = code + r"\allowbreak{}", 0.0
        words.append(code or escape(word))
    return " ".join(words)


def label(name: str) -> str:
    """A name that can stand in ``\\label``."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
