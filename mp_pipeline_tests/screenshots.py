"""Takes the screenshots of the docs: `python -m mp_pipeline_tests.screenshots`.

Needs `pip install -e '.[explore,pictures]'` and Chromium (Debian: `apt-get install chromium`). It
starts `dagster dev` on the sample project in a temporary directory, loads 30 days and the profiles,
and opens the pages. It takes about two minutes.
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mp_pipeline_tests.support.browser import SIZE, choose, explored, opened_page
from mp_pipeline_tests.support.files import REPOSITORY
from mp_pipeline_tests.support.graphql import Webserver, dagster_dev
from mp_pipeline_tests.support.metrics import compute_metrics
from mp_pipeline_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURES = REPOSITORY / "docs/pictures"
MAX_BYTES = 200_000
SECONDS = 120


@dataclass(frozen=True)
class Picture:
    """A page to take a screenshot of.

    Attributes:
        name: Name of the file, without `.png`.
        path: Path of the page.
        shows: Text that is there once the page is complete. It is scrolled into view.
        clicks: Texts to click on in this order before the screenshot.
    """

    name: str
    path: str
    shows: str
    clicks: tuple[str, ...] = ()


def take(page: "Page", webserver: Webserver, picture: Picture) -> None:
    """Open a page, wait until it is complete, and save the screenshot."""
    page.goto(f"{webserver.url}{picture.path}")
    for text in picture.clicks:
        page.get_by_text(text, exact=True).first.click()
    page.get_by_text(picture.shows).first.wait_for()
    page.get_by_text(picture.shows).first.scroll_into_view_if_needed()
    page.wait_for_timeout(3_000)  # animations
    save(page, picture.name)


def save(page: "Page", name: str) -> None:
    """Save the screenshot of a page."""
    file = PICTURES / f"{name}.png"
    page.screenshot(path=file)
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{file} has {size:,} bytes, more than {MAX_BYTES:,}")
    sys.stdout.write(f"{file.relative_to(REPOSITORY)}: {size:,} bytes\n")


def main() -> None:
    """Load days and profiles, and take all screenshots."""
    today = datetime.now(UTC).date()
    days = [str(today - timedelta(days=back)) for back in range(30, 0, -1)]
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, opened_page() as page:
        directory = Path(temporary)
        for name in ("pyproject.toml", "workspace.yaml", "dagster.yaml"):
            shutil.copy(REPOSITORY / name, directory)
        variables = {"MIXPANEL_START_DATE": str(today - timedelta(days=40))}
        with dagster_dev(directory, variables) as webserver:
            profiles = webserver.launch_run("profiles")
            _wait(webserver, profiles)
            backfill = webserver.launch_backfill("events", days)
            wait_until(
                lambda: bool(webserver.backfill(backfill)["runs"]), SECONDS, lambda: "no run"
            )
            run = webserver.backfill(backfill)["runs"][0]["runId"]
            wait_until(
                lambda: webserver.run_status(run) == "STARTED", SECONDS, lambda: "not started"
            )
            take(page, webserver, Picture("backfill", f"/runs/b/{backfill}", "In progress"))
            _wait(webserver, run)
            wait_until(
                lambda: webserver.partition_counts("typed_events")["numMaterialized"] == len(days),
                SECONDS,
                lambda: "the sensor did not type the days",
            )
            partition = f"/assets/events?view=partitions&partition={days[-1]}"
            checks = "/assets/events?view=checks"
            typed = f"/assets/typed_events?view=partitions&partition={days[-1]}"
            for picture in (
                Picture("graph", "/asset-groups", "75% filled"),
                Picture("launch", "/assets/events", "10 partitions", ("Materialize…", "Missing")),
                Picture("overview", "/assets/events?view=overview", "insert_id"),
                Picture("plots", "/assets/events?view=overview", "rows_per_second", ("Plots",)),
                Picture("partition", partition, "lines_read"),
                Picture("plot", partition, "lines_read", ("[Show Markdown]",)),
                Picture("run", f"/runs/{run}", "RUN_SUCCESS"),
                Picture("automation", "/automation", "daily_events"),
                Picture("checks", checks, "Latest execution"),
                Picture("dictionary", typed, "event.subscription_cancelled"),
                Picture("counts", f"{checks}&checkDetail=mixpanel_counts", "Latest execution"),
            ):
                take(page, webserver, picture)
        take_explore(page, directory / "data/sample.duckdb")


def take_explore(page: "Page", database: Path) -> None:
    """Compute the metrics of a database, and take the pictures of `mp-pipeline explore`."""
    compute_metrics(database)
    with explored(database) as url:
        page.goto(url)
        for name, tab, shows, height in (
            ("explore", "Overview", "MAU", 900),
            ("funnel", "Funnel", "of the first step", 900),
            ("retention", "Retention", "14", 400),
        ):
            page.set_viewport_size({"width": SIZE["width"], "height": height})
            page.get_by_role("tab", name=tab).click()
            page.locator("svg").get_by_text(shows, exact=True).wait_for()
            if tab == "Funnel":
                choose(page, "Step 2", "Search")
                choose(page, "Step 3", "Purchase")
                choose(page, "Breakdown", "plan")
            if tab == "Retention":
                choose(page, "Return event", "Search")
                page.locator("select").select_option("week")
            page.wait_for_timeout(2_000)  # animations
            save(page, name)


def _wait(webserver: Webserver, run_id: str) -> None:
    wait_until(
        lambda: webserver.run_status(run_id) == "SUCCESS",
        SECONDS,
        lambda: "\n".join(webserver.messages(run_id)),
    )


if __name__ == "__main__":
    main()
