"""The console in a real browser, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from commitlog.base import WriterState
from tests.api.api_box import ApiBox
from tests.api.live_server import serving
from tests.conftest import require_component

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = require_component("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if "Content Security" in message.text else None)
    yield page
    context.close()
    assert troubles == []


@pytest.fixture
def filled(tmp_path: Path) -> ApiBox:
    box = ApiBox(tmp_path)
    box.log.event("press-17", "connected", "s1")
    box.log.reading("press-17", {"temperature": 21.5})
    box.log.reading("line/4", {"temperature": 3})
    box.step()
    return box


def test_the_page_follows_what_happens(page: Page, filled: ApiBox) -> None:
    with serving(filled.app) as url:
        page.goto(url)
        row = page.locator("tr", has_text="press-17")
        expect(row).to_contain_text("temperature=21.5")
        filled.log.reading("press-17", {"temperature": 99})
        filled.log.event("press-17", "disconnected", "s1")
        filled.step()
        expect(row).to_contain_text("temperature=99")
        expect(row).to_contain_text("not connected")
        filled.log.state = WriterState.STALE
        filled.step()
        expect(page.locator(".notice.warn:visible")).to_contain_text("The edge process is down")


def test_the_focus_survives_a_poll(page: Page, filled: ApiBox) -> None:
    with serving(filled.app) as url:
        page.goto(url)
        page.get_by_role("link", name="press-17").focus()
        filled.log.reading("press-17", {"temperature": 98})
        filled.step()
        expect(page.locator("tr", has_text="press-17")).to_contain_text("temperature=98")
        expect(page.get_by_role("link", name="press-17")).to_be_focused()


def test_searching_narrows_as_one_types(page: Page, filled: ApiBox) -> None:
    with serving(filled.app) as url:
        page.goto(url)
        page.get_by_label("Search devices by id").press_sequentially("line")
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("tbody tr")).to_contain_text("line/4")
        expect(page).to_have_url(f"{url}/?search=line")
        filled.log.reading("line/5", {"temperature": 4})
        filled.step()
        expect(page.locator("tbody tr")).to_have_count(2)  # the poll goes on with the search


def test_a_device_with_a_slash_has_a_page(page: Page, filled: ApiBox) -> None:
    with serving(filled.app) as url:
        page.goto(url)
        page.get_by_role("link", name="line/4").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("line/4")
        filled.log.reading("line/4", {"temperature": 77})
        filled.step()
        expect(page.locator(".payload")).to_contain_text("77")


def test_a_console_that_does_not_answer_is_said_and_forgotten_when_it_does(page: Page, filled: ApiBox) -> None:
    with serving(filled.app) as url:
        page.goto(url)
        contact = page.locator("#contact")
        expect(contact).to_be_hidden()
        page.route("**/fragments/live*", lambda route: route.abort())
        expect(contact).to_contain_text("The console does not answer")
        expect(page.locator("tr", has_text="press-17")).to_be_visible()
        page.unroute("**/fragments/live*")
        expect(contact).to_be_hidden()
        page.route("**/fragments/live*", lambda route: route.fulfill(status=500, body="{}"))
        expect(contact).to_contain_text("answered with an error (500)")
        expect(page.locator("tr", has_text="press-17")).to_be_visible()


def test_without_scripts_everything_is_there(browser: Browser, filled: ApiBox) -> None:
    with serving(filled.app) as url:
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(url)
        expect(page.locator("tr", has_text="press-17")).to_contain_text("temperature=21.5")
        page.get_by_label("Search devices by id").fill("line")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(browser: Browser, filled: ApiBox, scheme: str) -> None:
    filled.log.reading("d" * 256, b"x" * 900)
    filled.sink_stands(filled.failing("t" * 249, "/lake/" + "x" * 490, for_ms=60_000))
    filled.step()
    with serving(filled.app) as url:
        context = browser.new_context(
            viewport={"width": 360, "height": 740}, color_scheme="dark" if scheme == "dark" else "light"
        )
        page = context.new_page()
        for path in ("/", f"/devices/{'d' * 256}", "/devices/press-17", "/devices/nobody"):
            page.goto(url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        context.close()
