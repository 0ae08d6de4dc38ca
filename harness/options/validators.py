"""Checks of single values, from a flag or a suite file alike. Torch-free.

Each takes text and gives the value; a bad one is a `UsageError` of one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from harness.common.conditions import BAD_ROWS, OVER_LENGTH
from harness.common.errors import UsageError, one_line
from harness.common.nearest import unknown
from harness.common.ownfiles import is_own, own_name

DATA = ("auto", "mini", "hub")
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
SHARD = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)
MAX_BATCH = 1024  # 1.4 GB of pixels at 336 x 336
# What --analyse can do, in the order in which it is done.
ANALYSES = ("arank", "damage", "plan", "regret")
# Faults of single samples that --allow counts instead of ending the cell.
ALLOWED = (OVER_LENGTH, BAD_ROWS)


def comma_list(text: str) -> tuple[str, ...]:
    """`a,b` -> ("a", "b"); empty items are refused."""
    items = tuple(item.strip() for item in text.split(","))
    if not all(items):
        raise UsageError(f"empty item in the list '{text}'")
    return items


def benches(text: str) -> tuple[str, ...]:
    """A comma list of benches, each named once; two paths need names that tell them apart."""
    items = comma_list(text)
    for index, item in enumerate(items):
        if item in items[:index]:
            raise UsageError(f"'{item}' stands twice")
        if not is_own(item):
            continue
        place(item)
        twin = next((one for one in items[:index] if own_name(one) == own_name(item)), None)
        if twin is not None:
            raise UsageError(
                f"'{twin}' and '{item}' are both {own_name(item)} in tables: rename one"
            )
    return items


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = _integer(text)
    if value < 1:
        raise UsageError(f"expected a whole number of at least 1, got '{text}'")
    return value


def natural(text: str) -> int:
    """An integer of at least 0 that fits a 32-bit random seed."""
    value = _integer(text)
    if not 0 <= value < 2**32:
        raise UsageError(f"expected a whole number from 0 to {2**32 - 1}, got '{text}'")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"expected a whole number, got '{text}'") from None


def seconds(text: str) -> float:
    """A finite number of seconds, 0 or more."""
    return _number(text, "a number of seconds", lambda value: 0 <= value < math.inf)


def patience(text: str) -> float:
    """Seconds that are longer than the one between two signs of life of a process."""
    return _number(text, "seconds, at least 2", lambda value: 2 <= value < math.inf)


def points(text: str) -> float:
    """A positive number of points, below 100."""
    what = "a number of points above 0 and below 100"
    return _number(text, what, lambda value: 0 < value < 100)


def budgets(text: str) -> tuple[str, ...]:
    """Budgets in canonical form: all shares (`0.33`, at most `1.0`) or all tokens (`192`)."""
    items = comma_list(text)
    whole = [item.isascii() and item.isdigit() for item in items]
    if any(whole) and not all(whole):
        one, other = items[whole.index(True)], items[whole.index(False)]
        raise UsageError(
            f"'{one}' is a number of tokens, '{other}' a share: give all as tokens of one image "
            "(192,128,64), or all as shares of its KV cache (0.33,0.22,0.11)"
        )
    what = "a share above 0, at most 1.0 (0.33), or a whole number of tokens (192)"
    found: list[str] = []
    for item in items:
        number = (
            str(positive(item))
            if all(whole)
            else str(_number(item, what, lambda value: 0 < value <= 1))
        )
        if number in found:
            raise UsageError(f"'{item}' stands twice")
        found.append(number)
    return tuple(found)


def share(text: str) -> float:
    """A number above 0, at most 1."""
    return _number(text, "a share above 0, at most 1", lambda value: 0 < value <= 1)


def _number(text: str, what: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise UsageError(f"expected {what}, got '{text}'")
    return value


def workloads(text: str) -> tuple[str, ...]:
    """A comma list of workloads, in canonical form."""
    from harness.options.workload import parse_workloads

    return parse_workloads(text)


def concurrency(text: str) -> tuple[int, ...]:
    """Numbers of requests in flight, ascending."""
    from harness.options import load

    return load.concurrency(text)


def analyses(text: str) -> tuple[str, ...]:
    """A comma list of analyses, in the order of work. A plan is made from one of the others."""
    known = one_of("analysis", ANALYSES)
    asked = [known(item) for item in comma_list(text)]
    if "plan" in asked and not {"arank", "damage"} & {*asked}:
        raise UsageError("a plan is made from arank or damage: name one of them too")
    return tuple(name for name in ANALYSES if name in asked)


def allowed(text: str) -> tuple[str, ...]:
    """A comma list of faults that shall not end a cell, each once."""
    known = one_of("fault", ALLOWED)
    return tuple(dict.fromkeys(known(item) for item in comma_list(text)))


def batch_size(text: str) -> int | str:
    """A positive integer up to `MAX_BATCH`, or `auto`.

    Pixels and prompts of a whole batch are held at once, and a host that swaps to death raises
    nothing that could be caught and halved.
    """
    value = "auto" if text == "auto" else positive(text)
    if value != "auto" and int(value) > MAX_BATCH:
        raise UsageError(f"expected at most {MAX_BATCH} samples, got '{text}'")
    return value


def threads(text: str) -> int | str:
    """A positive number of at most `MAX_BATCH`, or `auto`."""
    value = "auto" if text == "auto" else positive(text)
    if value != "auto" and int(value) > MAX_BATCH:
        raise UsageError(f"expected at most {MAX_BATCH} threads, got '{text}'")
    return value


def one_of(
    kind: str, choices: tuple[str, ...], aliases: Mapping[str, str] | None = None
) -> Callable[[str], str]:
    """A validator for a closed list of words; `aliases` maps short forms to the words."""

    def check(text: str) -> str:
        value = (aliases or {}).get(text, text)
        if value not in choices:
            raise UsageError(unknown(kind, text, [*choices, *(aliases or {})]))
        return value

    return check


def device(text: str) -> str:
    """`auto`, `cpu`, `mps`, `cuda` or `cuda:N`."""
    if not DEVICE.fullmatch(text):
        raise UsageError(unknown("device", text, ("auto", "cpu", "cuda", "cuda:0", "mps")))
    return text


def shard(text: str) -> str:
    """`i/N`, the i-th of N shares, from 1."""
    found = SHARD.fullmatch(text.strip())
    index, count = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        near = f": the shares of {count} are 1/{count} to {count}/{count}" if count else ""
        raise UsageError(f"expected i/N, the i-th of N shares from 1, got '{text}'{near}")
    return f"{index}/{count}"


def protocol(text: str) -> str:
    """A way of asking by its name, or with parts as reports write it, in canonical form."""
    from harness.common.protocol import Protocol

    return str(Protocol.parse(text))


def cluster(text: str) -> str:
    """`local:N` or `slurm:key=value...[:N]`, in canonical form."""
    from harness.options.cluster import parse_cluster

    return parse_cluster(text).spec


def place(text: str) -> str:
    """A path, or a name that might be one: text that the file system can be asked about."""
    try:
        Path(non_empty(text)).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a home of nobody, no access
        why = getattr(error, "strerror", None) or one_line(str(error))
        raise UsageError(f"'{one_line(text, 80)}' is no path to look at ({why})") from None
    return text


def places(text: str) -> tuple[str, ...]:
    """A comma list of paths, each once."""
    return tuple(dict.fromkeys(place(item) for item in comma_list(text)))


def data(text: str) -> str:
    """`auto`, `mini`, `hub`, or a folder with local copies of hub datasets."""
    if text not in DATA and not Path(place(text)).expanduser().is_dir():
        raise UsageError(unknown("data source", text, DATA, "nor is it a folder"))
    return text


def checkpoint(text: str) -> tuple[str, str]:
    """`method=PATH_OR_ID` -> (method, path)."""
    name, equals, path = text.partition("=")
    if not (equals and name.strip() and path.strip()):
        raise UsageError(f"expected method=PATH_OR_ID, got '{text}'")
    return name.strip(), place(path.strip())


def target(text: str) -> str:
    """A path that can be written: checked before anything is loaded."""
    from harness.common.place import check_place

    check_place(Path(non_empty(text)))
    return text


def endpoint(text: str) -> str:
    """The address of an OpenAI-compatible endpoint, up to its version; no secrets in it."""
    found = urlsplit(text.strip())
    try:
        known = found.scheme in ("http", "https") and found.hostname and (found.port or 1)
    except ValueError:  # a port that is none
        known = None
    if found.username or found.password or found.query or found.fragment:
        raise UsageError("an address without user, password and '?': the key is OPENAI_API_KEY")
    if not known:
        raise UsageError(f"expected an address like http://127.0.0.1:8000/v1, got '{text}'")
    return found.geturl().rstrip("/").removesuffix("/chat/completions").rstrip("/")


def non_empty(text: str) -> str:
    """Any text but the empty one."""
    if not text.strip():
        raise UsageError("expected a value, got nothing")
    return text
