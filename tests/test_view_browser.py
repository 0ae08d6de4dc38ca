"""The page of all samples in a real browser: 5,000 documents under six methods."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from reports.samples.index import Index
from reports.samples.server import Server, start
from tests.fixtures.samples import SIX, is_wrong, write_samples
from tests.test_reports_browser import BROWSERS

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")
DOCUMENTS = 5000
ROW = "#list a[aria-current]"
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run = write_samples(tmp_path_factory.mktemp("run") / "big", SIX, ("gqa",), DOCUMENTS, 300)
    server = Server(Index(run, tmp_path_factory.mktemp("index")), 0)
    builder, found = start(server.index, server)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    builder.join(120)
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page at the list; whatever it complains of fails the test."""
    opened = browser.new_page(viewport=WIDE, base_url=address)
    opened.set_default_timeout(15000)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(dialog.message))
    opened.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    opened.goto("/")
    opened.wait_for_selector("#list a")
    yield opened
    opened.close()
    assert not wrong


def count(page: Any, number: int) -> None:
    page.wait_for_function(
        "n => document.getElementById('state').textContent.startsWith(n + ' of')", arg=f"{number:,}"
    )


def current(page: Any, doc: int) -> None:
    page.wait_for_selector(f'{ROW}[href="#gqa/{doc}"]')
    page.wait_for_function(
        "n => document.querySelector('#detail h2').textContent.endsWith('/ ' + n)", arg=str(doc)
    )


def test_the_list_holds_only_the_rows_in_sight_wherever_it_is_scrolled(page: Any) -> None:
    count(page, DOCUMENTS)
    for place in (0, 2500, 4990):
        page.evaluate("n => { document.getElementById('list').scrollTop = n * 58; }", place)
        page.wait_for_selector(f'#list a[href="#gqa/{place + 5}"]')
        assert page.locator("#list a").count() < 40


def test_search_and_filters_list_what_they_say(page: Any) -> None:
    page.fill("#words", '"word 4999"')
    count(page, 1)
    page.click("button[type=reset]")
    count(page, DOCUMENTS)
    page.select_option("#change", "lost")
    page.select_option("#method", label="gamma")
    fell = [d for d in range(DOCUMENTS) if is_wrong(d, 1) and not is_wrong(d, 0)]
    count(page, len(fell))
    page.reload()  # the address has the filters
    count(page, len(fell))
    assert page.locator("#list a").first.get_attribute("href") == f"#gqa/{fell[0]}"
    assert page.input_value("#change") == "lost"


def test_keys_walk_the_list_and_the_layers(page: Any) -> None:
    page.keyboard.press("j")
    current(page, 0)
    page.keyboard.press("ArrowDown")
    current(page, 1)
    page.keyboard.press("k")
    current(page, 0)
    page.wait_for_selector("#detail canvas")
    layer = page.locator("#detail output")
    assert layer.inner_text().startswith("2 ")
    before = page.evaluate("document.querySelectorAll('#detail canvas')[5].toDataURL()")
    page.keyboard.press("o")
    assert page.evaluate("document.querySelectorAll('#detail canvas')[5].toDataURL()") != before
    page.keyboard.press("[")
    assert layer.inner_text().startswith("1 ")
    page.keyboard.press("/")
    page.keyboard.type("jo")  # letters now, not keys
    assert page.input_value("#words") == "jo"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()


def test_answers_are_text_whatever_they_say(page: Any) -> None:
    page.goto("/#gqa/0")
    page.wait_for_selector("#detail canvas")
    assert "<script>" in page.locator("#detail td.said").first.inner_text()
    assert page.locator("#detail script, #detail img, #list script").count() == 0
    assert page.title() == "gqa/0 · big"


def test_a_deep_link_opens_its_document_and_its_place(page: Any) -> None:
    page.goto("/#gqa/4321")
    page.reload()
    current(page, 4321)
    assert "4,322 of 5,000" in page.locator("#detail .path").inner_text()
    page.keyboard.press("j")
    current(page, 4322)


def test_a_link_to_no_document_says_so(browser: Any, address: str) -> None:
    page = browser.new_page(base_url=address)
    page.goto("/#gqa/none")
    page.wait_for_selector("#state.no")
    assert "No document 'none'" in page.locator("#state").inner_text()
    page.close()


def test_numbers_of_a_document_stand_beside_each_answer(page: Any) -> None:
    page.goto("/#gqa/3")  # the first that gamma alone answers wrong
    page.wait_for_selector("#detail canvas")
    rows = [re.sub(r"\s+", " ", row) for row in page.locator("#detail tbody tr").all_inner_texts()]
    assert len(rows) == len(SIX)
    assert rows[0].startswith("dense word 3 1 ✓ 36 of 36 80 % 4.00 0.0500 100 %")
    assert rows[1].startswith("gamma answer 1 0 ✗ right → wrong")
    assert "(mini)" in page.locator("#detail .caption").inner_text()


@pytest.mark.parametrize(
    ("size", "theme"), [(WIDE, "dark"), (PHONE, "light")], ids=["wide-dark", "phone-light"]
)
def test_nothing_sticks_out_and_every_word_can_be_read(page: Any, size: Any, theme: str) -> None:
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size(size)
    page.goto("/?change=lost#gqa/7")
    page.reload()
    page.wait_for_selector("#detail canvas")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .cards, #list,"
        " .skip-link, option') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML)"
    )
    assert not wide
    if size is PHONE:
        assert not page.locator("#list").is_visible()
        page.click("text=← List")
        page.wait_for_selector("#list a")
        assert not page.locator("#detail").is_visible()
