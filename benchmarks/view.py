"""How fast the page of all samples answers: 5,000 documents under six methods, in a browser.

    python -m benchmarks.view [--documents 5000] [--run RUN]

Milliseconds of one headless Chromium at 1400 x 900 on this machine's loopback: median and worst of
`--repeats`. First rows: from the command's start (imports and index among it), and of a page opened
once all is read. Then from a key or a choice to the list that answers it (120 ms of it the wait for
the next key), and from `j` to the next document with its overlays. Memory: the server's resident
set when it has opened the run and when all is done, the page's JavaScript heap when all is done.
Prints a CSV; nothing is asserted.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fixtures.samples import SIX, write_samples

STATE = "document.getElementById('state').textContent"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--run", type=Path, help="a run of one's own instead")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = asked.run or write_samples(Path(folder, "run"), SIX, ("gqa",), asked.documents)
        rows = [["step", "unit", "median", "worst", "n"], *measure(run, asked.repeats)]
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)


def measure(run: Path, repeats: int) -> list[list[Any]]:
    """Rows of the table."""
    from playwright.sync_api import sync_playwright

    words = [sys.executable, "run_suite.py", "view", str(run), "--port", "0", "--no-browser"]
    with sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page(viewport={"width": 1400, "height": 900})
        begun = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            try:
                found, memory = _timed(server, page, begun, repeats)
            finally:
                server.send_signal(signal.SIGINT)
        heap = _heap(page)
        chromium.close()
    found += [["server memory, at the start", "MiB", memory[0], "", 1]]
    found += [["server memory, at the end", "MiB", memory[1], "", 1]]
    return [*found, ["page memory, at the end", "MiB", heap, "", 1]]


def _timed(
    server: subprocess.Popen[str], page: Any, begun: float, repeats: int
) -> tuple[list[list[Any]], list[float]]:
    assert server.stdout is not None
    address = server.stdout.readline().split(": ", 1)[1].split()[0]
    memory = [_resident(server.pid)]
    page.goto(address)
    page.wait_for_selector("#list a")
    found = [_row("first rows, from the command", [time.perf_counter() - begun])]
    page.wait_for_function(f"() => !{STATE}.includes('reading')")
    found.append(_row("all answers read, from the command", [time.perf_counter() - begun]))
    found += _responses(page, address, repeats)
    return found, [*memory, _resident(server.pid)]


def _responses(page: Any, address: str, repeats: int) -> list[list[Any]]:
    def opened(_: int) -> None:
        page.goto(address)
        page.wait_for_selector("#list a")

    def painted(change: Callable[[], Any]) -> None:
        page.evaluate("window.before = document.querySelector('#list a')")
        change()
        new = "() => (a => a && a !== window.before)(document.querySelector('#list a'))"
        page.wait_for_function(new, polling=5)

    def search(number: int) -> None:
        painted(lambda: page.fill("#words", f"word {number + 1}"))

    def choose(number: int) -> None:
        painted(lambda: page.select_option("#change", ("lost", "right")[number % 2]))

    def following(_: int) -> None:
        page.evaluate("window.before = document.querySelector('#detail canvas')")
        page.keyboard.press("j")
        new = "() => (c => c && c !== window.before)(document.querySelector('#detail canvas'))"
        page.wait_for_function(new, polling=5)

    def scroll(number: int) -> None:
        jump = (
            "s => { const l = document.getElementById('list'); l.scrollTop = s * l.scrollHeight; }"
        )
        painted(lambda: page.evaluate(jump, (number * 37 % 100) / 100 + 0.005))

    steps: list[tuple[str, Callable[[int], None]]] = [
        ("first rows, all read", opened), ("search", search), ("filter", choose),
        ("next document, with overlays", following), ("scroll to another place", scroll),
    ]  # fmt: skip
    found = []
    for name, step in steps:
        opened(0)
        times = []
        for number in range(repeats):
            begun = time.perf_counter()
            step(number)
            times.append(time.perf_counter() - begun)
        found.append(_row(name, times))
    return found


def _row(name: str, seconds: list[float]) -> list[Any]:
    shown = [round(1000 * s) for s in (statistics.median(seconds), max(seconds))]
    return [name, "ms", *shown, len(seconds)]


def _resident(process: int) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    return round(int(text.split("VmRSS:")[1].split()[0]) / 1024, 1)


def _heap(page: Any) -> float:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")["usedSize"]
    return round(used / 2**20, 1)


if __name__ == "__main__":
    main()
