"""Text of a run in Markdown: read by a Markdown parser, it is the same text and nothing else."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reports import build_report
from reports.markdown import escape, fenced
from tests.fixtures.routing import write_routing
from tests.fixtures.runs import write_run

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NASTY = "![x](http://a.b/c.png) [y](http://a.b) <img src=x onerror=alert(1)> www.a.b </script>"
TEXT = st.text(st.sampled_from("[]()!<>&;`*_~#+-=.:/\\|$ \n\r\t1aä") | st.characters(codec="utf-8"))


def rendered(markdown: str) -> str:
    """What a reader sees of one paragraph; fails when the parser made anything else of it."""
    made = PARSER.render(markdown).strip()
    assert re.sub(r"^<p>|</p>$", "", made).count("<") == 0, made
    return html.unescape(re.sub(r"^<p>|</p>$", "", made))


@settings(max_examples=150, deadline=None)
@given(TEXT)
@example(NASTY)
@example("1. a")
@example("[1][2](3) [4]: 5 ![6]")
@example("- [ ] a")
@example("[ ] a")
@example("&lt;b&gt; ~~a~~ __b__ _c_ # d")
def test_escaped_text_is_read_as_it_stands(text: str) -> None:
    flat = " ".join(text.replace("\0", "\ufffd").split())
    assert rendered(escape(text)) == flat
    row = PARSER.render(f"| a | b |\n| --- | --- |\n| {escape(text)} | c |\n")
    assert html.unescape(re.findall(r"<td>(.*)</td>", row)[0]) == flat
    assert not re.search(r"(?<!\\)://|www(?<!\\)\.", escape(text), re.IGNORECASE)


@settings(max_examples=80, deadline=None)
@given(st.text(st.sampled_from("`~a \n"), max_size=30))
def test_a_fence_holds_whatever_stands_in_it(code: str) -> None:
    tokens = PARSER.parse(f"before\n\n{fenced(code)}\n\nafter")
    assert [t.type for t in tokens if t.type in ("fence", "paragraph_open")] == [
        "paragraph_open",
        "fence",
        "paragraph_open",
    ]
    assert next(t.content for t in tokens if t.type == "fence") == code + "\n"


def test_a_report_holds_no_link_image_or_tag_of_the_data(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", ("dense", "gamma"), ("gqa",), failed=(), without_cost=())
    write_routing(path)
    for about in (path / "routing").glob("*/*.json"):
        facts = json.loads(about.read_text())
        words = ["<s>", f" {NASTY}", " \ud800\x0b"]
        facts |= {"prediction": NASTY, "target": NASTY, "words": words + ["?"] * 3}
        about.write_text(json.dumps(facts))
    meta = json.loads((path / "run.json").read_text())
    argv = ["run_suite.py", "--out", "a\n```\n# Title\n" + NASTY]
    (path / "run.json").write_text(json.dumps({**meta, "argv": argv, "device": NASTY}))
    (path / "cells.csv").write_text(
        (path / "cells.csv").read_text()
        + f'z,{NASTY},mod,{{}},"{NASTY}",gqa,mini,failed,{NASTY},,1\n'
    )
    page = build_report(path).read_text(encoding="utf-8")
    assert "<img src=x" not in page
    scripts = re.findall(r"<script.*?</script>", page, re.DOTALL)
    data = json.loads(
        next(s for s in scripts if "application/json" in s).partition(">")[2].rpartition("<")[0]
    )
    assert data["samples"][0]["methods"][0]["answer"] == NASTY
    tokens = PARSER.parse((path / "report.md").read_text(encoding="utf-8"))
    fences = [t.content for t in tokens if t.type == "fence"]
    assert len(fences) == 1 and "# Title" in fences[0]
    inside = [child for token in tokens for child in token.children or ()]
    links = [str(t.attrs.get("href") or t.attrs.get("src", "figures/")) for t in inside]
    assert len(links) > 10 and all(link.startswith("figures/") for link in links)
    assert {t.content for t in inside if t.type == "html_inline"} <= {"<br>"}
    assert not [t for t in tokens if t.type == "html_block"]


@pytest.mark.parametrize(
    "text", ["", "gamma", "k=3 r=0.75", "fastv_k3", "−1.2 [−2.0, −0.4], n = 500"]
)
def test_plain_words_stay_readable(text: str) -> None:
    assert escape(text) == text
