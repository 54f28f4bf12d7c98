"""The page of `mp-pipeline explore` in a browser; conftest.py says what this needs.

Numbers on the page are compared with SQL of the test's own.
"""

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, expect

from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.support.browser import choose, explored, opened_page
from mp_pipeline_tests.support.databases import query_file
from mp_pipeline_tests.support.metrics import FIRST, Event, compute_metrics, load
from mp_pipeline_tests.support.processes import COMMAND, environment, holding, run_command
from mp_pipeline_tests.support.waiting import PATIENCE

expect.set_options(timeout=30_000)

HTML = "<img src=x onerror=document.title='hacked'>"
START = "<img src=x"  # long names are shortened


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("explore")
    run_command(
        directory, "backfill", "--from", "2024-03-08", "--to", "2024-03-10", "--no-profiles"
    )
    compute_metrics(directory / "data/sample.duckdb")
    return directory / "data/sample.duckdb"


@pytest.fixture(scope="module")
def url(database: Path) -> Iterator[str]:
    with explored(database) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with opened_page() as page:
        yield page


@pytest.fixture
def page(browser: Page, url: str) -> Page:
    browser.goto(url)
    expect(browser.get_by_text("Days loaded: 3")).to_be_visible()
    return browser


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def rows(page: Page) -> list[list[str]]:
    """Return the texts of the only table of the page."""
    expect(page.locator("table")).to_have_count(1)
    return [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]


def chart(page: Page, text: str) -> None:
    """Wait until a chart shows a text."""
    expect(page.locator("svg.marks").get_by_text(text, exact=True).first).to_be_visible()


def test_the_overview(page: Page) -> None:
    for text in ("Song Played", "Page View", "DAU", "WAU", "MAU", "Mar 9"):
        chart(page, text)


def test_the_dictionary(page: Page, database: Path) -> None:
    ((played,),) = query_file(
        database, "SELECT count(*) FROM events WHERE event_name = 'Song Played'"
    )
    open_tab(page, "Dictionary")
    expect(page.get_by_role("cell", name="event.song_played")).to_be_visible()
    expect(page.get_by_role("cell", name=f"{played:,}", exact=True)).to_be_visible()
    choose(page, "Event", "Purchase")
    expect(page.get_by_role("cell", name="currency").first).to_be_visible()
    choose(page, "Property", "$city")
    chart(page, "Lagos")


def test_a_funnel(page: Page, database: Path) -> None:
    ((entered, reached),) = query_file(
        database,
        """
        WITH entered AS (
            SELECT user_id, min(event_time) AS entered_at FROM user_events
            WHERE event_name = 'Song Played' GROUP BY user_id
        )
        SELECT count(DISTINCT user_id), count(DISTINCT user_id) FILTER (
            event_name = 'Search' AND event_time >= entered_at - INTERVAL 2 SECOND)
        FROM entered JOIN user_events USING (user_id)
        """,
    )
    open_tab(page, "Funnel")
    choose(page, "Step 2", "Search")
    chart(page, "2. Search")
    chart(page, f"{reached / entered:.1%}")
    assert [row[:3] for row in rows(page)] == [
        ["1", "Song Played", str(entered)],
        ["2", "Search", str(reached)],
    ]
    choose(page, "Breakdown", "mp_country_code")
    chart(page, "US")


def test_retention(page: Page, database: Path) -> None:
    ((users,),) = query_file(
        database, "SELECT count(DISTINCT user_id) FROM user_events WHERE day = '2024-03-08'"
    )
    open_tab(page, "Retention")
    chart(page, f"2024-03-08 ({users:,} users)")
    chart(page, "100%")
    choose(page, "Birth event", "Sign Up")
    expect(page.get_by_text(f"2024-03-08 ({users:,} users)")).to_have_count(0)


def test_a_user(page: Page, database: Path) -> None:
    ((user, events, newest),) = query_file(
        database,
        "SELECT user_id, count(*), max(event_time) FROM user_events WHERE user_id IS NOT NULL "
        "GROUP BY user_id ORDER BY 2 DESC, 1 LIMIT 1",
    )
    open_tab(page, "User")
    expect(page.get_by_role("cell", name=user, exact=True)).to_be_visible()
    page.get_by_placeholder("any of the user's IDs").fill(user)
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"{events:,} rows")).to_be_visible()
    assert datetime.fromisoformat(rows(page)[0][0]) == newest.replace(microsecond=0)


def test_while_another_process_writes(page: Page, database: Path) -> None:
    with holding(database) as pid:
        open_tab(page, "Dictionary")
        expect(page.get_by_text(f"(PID {pid}) holds it").first).to_be_visible()
        expect(page.get_by_role("button", name="Retry").first).to_be_visible()
    page.get_by_role("button", name="Retry").first.click()
    expect(page.get_by_role("cell", name="event.song_played")).to_be_visible()


def test_a_page_opened_while_another_process_writes(
    browser: Page, url: str, database: Path
) -> None:
    with holding(database):
        browser.goto(url)
        expect(browser.get_by_text("Another process is writing to the database")).to_be_visible()
    browser.get_by_role("button", name="Retry").click()
    expect(browser.get_by_text("Days loaded: 3")).to_be_visible()


def test_what_to_materialize(browser: Page, tmp_path: Path) -> None:
    moment = datetime(FIRST.year, FIRST.month, FIRST.day, 12)
    with StorageEngine(tmp_path / "test.duckdb") as storage:
        load(storage, [Event("A", "u1", moment, "1")], [FIRST])
    with explored(tmp_path / "test.duckdb") as url:
        browser.goto(url)
        expect(
            browser.get_by_text("materialize identities, sessions and daily_metrics")
        ).to_be_visible()
        open_tab(browser, "Dictionary")
        expect(browser.get_by_text("materialize typed_events").first).to_be_visible()
        for tab in ("Funnel", "Retention", "User"):
            open_tab(browser, tab)
            expect(browser.get_by_text("materialize identities.")).to_be_visible()


def test_names_are_not_html(browser: Page, tmp_path: Path) -> None:
    moment = datetime(FIRST.year, FIRST.month, FIRST.day, 12)
    path = tmp_path / "test.duckdb"
    with StorageEngine(path) as storage:
        load(storage, [Event(HTML, HTML, moment, "1", {HTML: HTML})], [FIRST])
        storage.type_events_day("events", FIRST)
    compute_metrics(path)
    with explored(path) as url:
        browser.goto(url)
        for tab in ("Overview", "Dictionary", "Funnel", "Retention", "User"):
            open_tab(browser, tab)
            if tab == "Retention":
                choose(browser, "Birth event", HTML)
            expect(browser.get_by_text(START).first).to_be_attached()
        browser.get_by_placeholder("any of the user's IDs").fill(HTML)
        browser.keyboard.press("Enter")
        expect(browser.get_by_role("cell", name=START).first).to_be_visible()
        assert browser.locator("img[src='x']").count() == 0
        assert browser.title() == "mp_pipeline"


def test_the_browser_asks_only_this_machine(browser: Page, url: str) -> None:
    hosts = set()
    browser.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    browser.goto(url)
    chart(browser, "MAU")
    assert hosts - {None} == {"127.0.0.1"}


def test_the_page_needs_the_token_and_this_machine(url: str) -> None:
    parts = urlsplit(url)
    with pytest.raises(HTTPError) as caught, urlopen(f"http://{parts.netloc}/api/status"):
        pass
    assert caught.value.code in (401, 403)
    with urlopen(f"http://{parts.netloc}/") as answer:
        assert "/auth/login" in answer.url
    with socket.socket() as client:  # 127.0.0.2 is this machine as well, but not the address
        assert client.connect_ex(("127.0.0.2", parts.port)) != 0


def test_ctrl_c_ends_it(database: Path) -> None:
    command = [COMMAND, "explore", "--no-browser", "--port", "0"]
    variables = environment(MP_PIPELINE_DATABASE=str(database))
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        assert started.stdout is not None
        printed = started.stdout.readline() + started.stdout.readline()
        started.send_signal(signal.SIGINT)
        rest, _ = started.communicate(timeout=PATIENCE)
    assert (started.returncode, rest) == (0, "")
    (port,) = re.findall(r":(\d+)\?", printed)
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", int(port))) != 0


def test_a_port_that_is_taken(database: Path, url: str) -> None:
    port = str(urlsplit(url).port)
    printed = run_command(
        database.parent,
        *("explore", "--no-browser", "--port", port),
        code=1,
        env={"MP_PIPELINE_DATABASE": str(database)},
    )
    assert f"cannot listen on port {port}" in printed
    assert "choose another with --port" in printed
