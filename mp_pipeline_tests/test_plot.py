import base64
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from mp_pipeline.io_manager import Downloads, MixpanelDuckDBIOManager
from mp_pipeline.plot import volume_plot
from mp_pipeline.sample import SampleServer
from mp_pipeline.storage import LoadReport
from mp_pipeline_tests.dagster_support import (
    DAY,
    DAY_AFTER,
    EVENTS_PER_DAY,
    asset,
    daily,
    event,
    materialize,
    query,
    resources,
    tamper,
)
from mp_pipeline_tests.support.project import events, profiles

PREFIX = "![Rows a day; duplicates, rejected and late events](data:image/png;base64,"
BLUE = (0x56, 0xB4, 0xE9)
GREEN = (0x00, 0x9E, 0x73)


def report(day: date, rows: int = 100, **counts: int | None) -> LoadReport:
    now = datetime(2024, 1, 20, tzinfo=UTC)
    numbers: dict[str, Any] = {
        "duplicates": 0,
        "rejected": 0,
        "outside_day": 0,
        "repaired": 0,
        "gained": None,
        "lost": None,
    }
    return LoadReport(
        table_name=f"events_{day:%Y%m%d}",
        type="events",
        day=day,
        run_id=None,
        source=None,
        started_at=now,
        finished_at=now,
        bytes_read=0,
        lines_read=rows,
        rows_stored=rows,
        **(numbers | counts),
    )


def picture(markdown: str) -> Any:
    """The pixels of a picture: rows of columns of red, green, blue and opacity, from 0 to 255."""
    assert markdown.startswith(PREFIX)
    assert markdown.endswith(")")
    image = base64.b64decode(markdown[len(PREFIX) : -1], validate=True)
    return (imread(io.BytesIO(image), format="png") * 255).round().astype(int)


def pixels(image: Any, colour: tuple[int, int, int]) -> int:
    return int((image[:, :, :3] == colour).all(axis=2).sum())


def test_a_day_with_twice_the_rows_is_twice_as_high() -> None:
    image = picture(volume_plot([report(DAY, 50), report(DAY + timedelta(days=1), 100)]))
    height, width, _ = image.shape
    assert (height, width) == (440, 800)
    middle = round(width * (0.11 + 0.97) / 2)
    assert pixels(image[:, middle:], BLUE) == pytest.approx(
        2 * pixels(image[:, :middle], BLUE), rel=0.05
    )


def test_it_is_opaque_for_dark_pages() -> None:
    assert (picture(volume_plot([report(DAY)]))[:, :, 3] == 255).all()


def test_late_events_are_what_all_later_loads_have_gained() -> None:
    once = [report(DAY), report(DAY, 130, gained=30, lost=0)]
    twice = [report(DAY), report(DAY, 110, gained=10, lost=0), report(DAY, 130, gained=20, lost=0)]
    assert volume_plot(once) == volume_plot(twice)
    assert volume_plot(once) != volume_plot([report(DAY, 130)])


def test_a_missing_day_is_left_blank() -> None:
    there, _, after = (report(DAY + timedelta(days=offset)) for offset in range(3))
    image = picture(volume_plot([there, after]))
    _, width, _ = image.shape
    third = round(width * (0.97 - 0.11) / 3)
    left = round(width * 0.11)
    assert pixels(image[:, left : left + third - 2], BLUE) > 0
    assert pixels(image[:, left + third + 2 : left + 2 * third - 2], BLUE) == 0


def test_years_of_days_are_shown_as_the_last_one_and_stay_small() -> None:
    days = [date(2022, 1, 1) + timedelta(days=offset) for offset in range(1000)]
    loads = [
        report(
            day,
            90_000 + day.toordinal() * 15_485_863 % 20_000,
            duplicates=day.toordinal() * 7919 % 300,
            rejected=day.toordinal() * 104_729 % 30,
            gained=day.toordinal() * 1_299_709 % 500,
        )
        for day in days
    ]
    plot = volume_plot(loads)
    assert len(plot) < 40_000
    assert plot == volume_plot(loads[-366:])


# In runs


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


def test_the_last_day_of_a_run_has_the_plot(server: SampleServer, tmp_path: Path) -> None:
    run = materialize([events], resources(tmp_path, server), days=(DAY, DAY_AFTER))
    assert [key for key, shown in run.metadata.items() if "plot" in shown] == [str(DAY_AFTER)]
    assert pixels(picture(run.metadata[str(DAY_AFTER)]["plot"]), BLUE) > 0
    # An old day that is loaded again shows all days.
    again = materialize([events], resources(tmp_path, server), day=DAY)
    assert again.metadata[str(DAY)]["plot"] == run.metadata[str(DAY_AFTER)]["plot"]


def test_profiles_have_no_plot(server: SampleServer, tmp_path: Path) -> None:
    run = materialize([profiles], resources(tmp_path, server))
    assert "plot" not in run.metadata[None]


def test_records_of_a_day_have_the_plot_and_what_came_late(tmp_path: Path) -> None:
    def plays(*ids: str) -> Any:
        return asset(
            lambda: [event(id_, "2024-01-15T12:00:00") for id_ in ids], partitions_def=daily
        )

    only_day = materialize([plays()], resources(tmp_path), day=DAY + timedelta(days=1))
    assert "plot" not in only_day.metadata[str(DAY + timedelta(days=1))]
    first = materialize([plays("a", "b")], resources(tmp_path), day=DAY)
    shown = first.metadata[str(DAY)]
    assert pixels(picture(shown["plot"]), BLUE) > 0
    assert "gained" not in shown
    assert "gained" not in first.log.partition("2 rows from 2 lines")[2].splitlines()[0]
    second = materialize([plays("b", "c", "d")], resources(tmp_path), day=DAY)
    shown = second.metadata[str(DAY)]
    assert (shown["gained"], shown["lost"]) == (2, 1)
    assert ", 2 gained, 1 lost since the last load" in second.log


def test_a_range_that_shares_its_metadata_shows_what_came_late(tmp_path: Path) -> None:
    def plays(ids: str) -> Any:
        return asset(
            lambda: [
                event(f"{day}{id_}", f"2024-01-{day}T12:00:00") for day in (15, 16) for id_ in ids
            ],
            partitions_def=daily,
            backfill_policy=None,
        )

    days = ("2024-01-15", "2024-01-16")
    first = materialize([plays("ab")], resources(tmp_path), days=days)
    second = materialize([plays("bcd")], resources(tmp_path), days=days)
    counts = [
        [(row["gained"], row["lost"]) for row in run.metadata["2024-01-15"]["days"]]
        for run in (first, second)
    ]
    assert counts == [[("", "")] * 2, [("2", "1")] * 2]
    assert all("plot" not in shown for shown in second.metadata.values())


def test_nothing_is_lost_if_there_can_be_no_plot(server: SampleServer, tmp_path: Path) -> None:
    available = resources(tmp_path, server)

    class Spoiled(MixpanelDuckDBIOManager):
        """Someone drops the load log as soon as the last day is there."""

        def handle_output(self, context: Any, obj: Any) -> None:
            def files() -> Iterator[Any]:
                yield from obj.files
                tamper(tmp_path, "DROP TABLE _load_log", "CREATE TABLE _load_log (day DATE)")

            spoiled = Downloads(files(), obj.source, obj.context)
            super().handle_output(context, spoiled)

    available["mixpanel_duckdb"] = Spoiled(duckdb=available["duckdb"])
    run = materialize([events], available, days=(DAY, DAY_AFTER))
    assert run.success, run.error
    assert "all is loaded, but there is no plot of it: " in run.log
    assert len(run.metadata) == 3
    assert all("plot" not in shown for shown in run.metadata.values())
    ((days,),) = query(tmp_path, "SELECT count(DISTINCT event_time::DATE) FROM events")
    assert days == 3
