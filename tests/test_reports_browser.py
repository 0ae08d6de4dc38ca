"""The report in a real browser: nothing overflows, tables sort and filter, no console error."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reports import build_report
from tests.devtools import STICKING_OUT
from tests.fakes import FakeRun, run
from tests.fixtures.runs import BENCHES, METHODS, write_run
from tests.fixtures.studies import write_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    *("--enable-logging=stderr", "--hide-scrollbars", "--virtual-time-budget=3000", "--dump-dom"),
)

# The report runs in a frame of the asked width: a headless window cannot be as narrow as a phone.
PROBE = """<body style="margin:0"><iframe id="f" style="border:0" width="{width}" height="1200"
srcdoc="{page}"></iframe><pre id="out"></pre><script>
document.getElementById("f").onload = function () {{
  const page = this.contentDocument, root = page.documentElement;
  const first = () => [...page.querySelector("#table-overview").tBodies[0].rows]
    .map(row => row.cells[1].dataset.v || "");
  const wide = {sticking}(root);
  const button = page.querySelectorAll("#table-overview th button")[1];
  button.click(); const up = first(); button.click(); const down = first();
  const filter = page.querySelector("input[data-filters=table-cells]");
  filter.value = "gamma gqa"; filter.dispatchEvent(new Event("input"));
  const rows = [...page.querySelector("#table-cells").tBodies[0].rows].filter(r => !r.hidden);
  const theme = root.dataset.theme; page.getElementById("theme").click();
  document.getElementById("out").textContent = JSON.stringify({{
    page: root.scrollWidth, frame: root.clientWidth, wide: wide,
    up: up, down: down, sorted: page.querySelector("#table-overview th[aria-sort]").ariaSort,
    shown: rows.length, theme: [theme, root.dataset.theme],
    small: [...page.querySelectorAll("figure text")].map(e => e.getBoundingClientRect().height)
      .filter(h => h > 0 && h < 8).length,
  }});
}};
</script>"""

# What a page without an overview to sort still has to show: nothing sticks out, nothing is tiny.
FITS = """<body style="margin:0"><iframe id="f" style="border:0" width="{width}" height="1200"
srcdoc="{page}"></iframe><pre id="out"></pre><script>
document.getElementById("f").onload = function () {{
  const page = this.contentDocument, root = page.documentElement;
  const folds = () => page.querySelectorAll("details:not([open])").length;
  const printed = () => {{
    const view = page.defaultView, before = folds();
    view.dispatchEvent(new Event("beforeprint")); const during = folds();
    view.dispatchEvent(new Event("afterprint")); return [before, during, folds()];
  }};
  const texts = [...page.querySelectorAll("figure text")].map(e => e.getBoundingClientRect());
  const cut = [...page.querySelectorAll("figure svg")].flatMap(svg => {{
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(e => {{
      const own = e.getBoundingClientRect();
      return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
    }}).map(e => e.textContent);
  }});
  // Words that lie on each other by more than a hair, the large watermark below them left out.
  const over = [...page.querySelectorAll("figure svg")].flatMap(svg => {{
    const own = [...svg.querySelectorAll("text")].map(e => [e, e.getBoundingClientRect()])
      .filter(([e, b]) => b.height > 0 && b.height < 26);
    return own.flatMap(([e, a], i) => own.slice(i + 1).filter(([_, b]) =>
      Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
      .map(([f, _]) => e.textContent + " / " + f.textContent));
  }});
  document.getElementById("out").textContent = JSON.stringify({{
    page: root.scrollWidth, frame: root.clientWidth, wide: {sticking}(root),
    small: texts.filter(b => b.height > 0 && b.height < 8).length, cut: cut, over: over,
    first: page.querySelector("main table").id,
    folds: printed(),
  }});
}};
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("runs") / "study"
    write_run(path, tuple(METHODS), tuple(BENCHES), failed=(("mod", "gqa"),), throughput=True)
    return build_report(path).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium found")
@pytest.mark.parametrize("width", [380, 1600])
def test_report_in_a_browser(tmp_path: Path, page: str, width: int) -> None:
    found, console = probe(tmp_path, page, width)
    assert found["page"] == found["frame"] == width
    assert found["wide"] == []
    assert found["small"] == 0
    numbers = [float(v) for v in found["up"] if v]
    assert numbers == sorted(numbers)
    assert [float(v) for v in found["down"] if v] == numbers[::-1]
    assert found["up"][-1] == found["down"][-1] == ""  # the failed cell stays at the end
    assert found["sorted"] == "descending"
    assert found["shown"] == 1
    assert sorted(found["theme"]) == ["dark", "light"]
    assert console == []


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium found")
@pytest.mark.parametrize("width", [380, 1400])
def test_a_study_in_a_browser(tmp_path: Path, width: int) -> None:
    study = build_report(write_study(tmp_path / "ablate")).read_text(encoding="utf-8")
    found, console = probe(tmp_path, study, width, FITS)
    assert found["page"] == found["frame"] == width
    assert (found["wide"], found["cut"], found["over"], found["small"]) == ([], [], [], 0)
    assert found["first"] == "table-claims"
    assert console == []


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium found")
@pytest.mark.parametrize("width", [380, 1600])
def test_every_section_in_a_browser(tmp_path: Path, width: int) -> None:
    """A run whose files have everything the statistics derive."""
    out = tmp_path / "run"
    methods = ("fastv", "fastv:k=3:r=0.75", "random", "blind")
    assert run(out, FakeRun(), methods=methods, bench=("gqa", "textvqa", "pope")) == 0
    found, console = probe(tmp_path, build_report(out).read_text("utf-8"), width, FITS)
    assert found["page"] == found["frame"] == width
    assert (found["wide"], found["cut"], found["over"], found["small"]) == ([], [], [], 0)
    before, during, after = found["folds"]
    assert before == after > 0 == during  # paper cannot be unfolded
    assert console == []


def probe(
    folder: Path, page: str, width: int, script: str = PROBE
) -> tuple[dict[str, Any], list[str]]:
    """What the page measures of itself, and the lines it wrote to the console."""
    wrapper = folder / "probe.html"
    wrapper.write_text(
        script.format(width=width, page=html.escape(page), sticking=STICKING_OUT), encoding="utf-8"
    )
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, f"--window-size={max(width, 600)},1300", wrapper.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    out = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert out is not None
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(out[1])), console
