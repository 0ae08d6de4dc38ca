"""Which of several processes this is: `torchrun` and `accelerate launch` say it in the environment.

No torch. lmms-eval and the model libraries read the same words and would deal out documents and
devices by them a second time: `claim` takes them away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from harness.common.errors import UsageError
from harness.common.roots import INSTALLED
from harness.common.stops import COMMAND, PROGRAM

WORDS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
PLACE = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Rank:
    """One of ``count`` processes, the ``number``-th from 0; of the ``here`` on this machine the
    ``local``-th. ``host`` and ``port`` are where they meet; ``agent``: the launcher keeps that
    place, else rank 0 does. ``attempt`` counts the launcher's own restarts."""

    number: int = 0
    count: int = 1
    local: int = 0
    here: int = 1
    host: str = ""
    port: int = 0
    agent: bool = False
    attempt: str = "0"

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the run directory and speaks."""
        return self.number == 0

    @property
    def command(self) -> str:
        """How the program is started again in as many processes."""
        if self.alone:
            return COMMAND
        nodes = f"--nnodes {self.count // self.here} " * (self.count > self.here)
        program = "-m modsuite" if INSTALLED else PROGRAM
        return f"torchrun {nodes}--nproc-per-node {self.here} {program}"


ALONE = Rank()
_claimed: list[Rank] = []


def from_environment(words: Mapping[str, str]) -> Rank:
    """The rank that an environment speaks of. Raises UsageError for one that makes no sense."""
    if words.get("WORLD_SIZE", "1") in ("", "1") or "RANK" not in words:
        return ALONE
    missing = [name for name in PLACE if not words.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {words['WORLD_SIZE']} and {missing[0]} is not set: start the processes "
            "with torchrun or accelerate launch"
        )
    count, number = _number(words, "WORLD_SIZE"), _number(words, "RANK")
    local = _number(words, "LOCAL_RANK", number)
    here = _number(words, "LOCAL_WORLD_SIZE", count)
    if not (number < count and local < here <= count):
        raise UsageError(
            f"RANK {number} of WORLD_SIZE {count}, LOCAL_RANK {local} of LOCAL_WORLD_SIZE {here}: "
            "no such process; start them with torchrun or accelerate launch"
        )
    return Rank(
        number,
        count,
        local,
        here,
        words["MASTER_ADDR"],
        _number(words, "MASTER_PORT"),
        words.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        words.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _number(words: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = words.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} is '{text}', which is no number of a process")
    return int(text)


def claim() -> Rank:
    """This process's rank, of which nobody else finds a word in the environment from now on.

    Raises UsageError.
    """
    if not _claimed:
        _claimed.append(from_environment(os.environ))
        if not _claimed[0].alone:
            for name in WORDS:
                os.environ.pop(name, None)
    return _claimed[0]


def this() -> Rank:
    """What `claim` found; alone where nobody asked."""
    return _claimed[0] if _claimed else ALONE
