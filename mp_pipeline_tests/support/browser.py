"""Pages in a headless browser. It needs the extra `pictures` and Debian's package chromium."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mp_pipeline_tests.support.processes import COMMAND, process
from mp_pipeline_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

SIZE: "ViewportSize" = {"width": 1400, "height": 900}


@contextmanager
def opened_page() -> "Iterator[Page]":
    """Open a page in a headless browser."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        try:
            yield browser.new_page(viewport=SIZE)
        finally:
            browser.close()


@contextmanager
def explored(database: Path) -> Iterator[str]:
    """Run `mp-pipeline explore` on a database while the block runs, and yield its URL."""
    log = database.with_name("explore.log")
    log.write_text("")  # of an earlier process
    command = [COMMAND, "explore", "--no-browser", "--port", "0"]
    variables = {"MP_PIPELINE_DATABASE": str(database)}
    with process(command, database.parent, variables, log) as started:
        wait_until(lambda: "Ctrl-C" in log.read_text(), explain=log.read_text, processes=[started])
        (url,) = re.findall(r"http://\S+", log.read_text())
        yield url


def choose(page: "Page", label: str, option: str) -> None:
    """Choose an option of one of marimo's controls."""
    page.locator("button").and_(page.get_by_label(label)).click()
    page.get_by_role("option", name=option, exact=True).click()
