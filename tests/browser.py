"""A real Chromium, headless and without a network, driven as a person would: fixtures of the tests that look at pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE = 60_000  # milliseconds: a machine that runs tests is busy
HERE = ("127.0.0.1", None)  # None: no host at all, as of file: and data:


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The machine's own; tests are skipped where there is none, and fail in CI."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        assert "CI" not in os.environ, "a browser is missing: install Debian's chromium"
        pytest.skip("no chromium is installed")
    with sync_playwright() as driver:
        offline = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        browser = driver.chromium.launch(executable_path=program, args=offline)
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """For a page of ours: no script of it may fail."""
    with window(chromium) as (opened, failed):
        yield opened
        assert failed == []


@pytest.fixture(name="page")
def their_page(chromium: Browser) -> Iterator[Page]:
    """For MLflow's, some of whose scripts fail when one leaves a page that still loads."""
    with window(chromium) as (opened, _):
        yield opened


@contextmanager
def window(chromium: Browser) -> Iterator[tuple[Page, list[str]]]:
    """A window of 1300 x 900, and what failed in it. At the end: nothing was asked of another machine."""
    with chromium.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True) as context:
        asked: list[str] = []
        failed: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: failed.append(str(error.error)))
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE)
        yield opened, failed
        assert {url for url in asked if urlsplit(url).hostname not in HERE} == set()


def fits(page: Page) -> bool:
    """Whether nothing of the page lies beyond its right edge."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))
