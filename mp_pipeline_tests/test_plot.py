"""The plot of the last year, by itself and in the metadata of runs."""

import base64
import io
from collections.abc import Generator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from mp_pipeline import io_manager, range_run
from mp_pipeline.loads import Load
from mp_pipeline.plot import difference_plot, volume_plot
from mp_pipeline.sample import SampleServer
from mp_pipeline.storage import LoadReport, Origin
from mp_pipeline_tests.support.dagster import asset, daily, materialize, resources
from mp_pipeline_tests.support.databases import query, tamper
from mp_pipeline_tests.support.project import events, profiles
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, event
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY

PREFIX = (
    "![Rows per day; duplicates, rejected lines and late-arriving events](data:image/png;base64,"
)
BLUE = (0x56, 0xB4, 0xE9)
GREEN = (0x00, 0x9E, 0x73)
ORANGE = (0xD5, 0x5E, 0x00)


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
        origin=Origin(),
        started_at=now,
        finished_at=now,
        bytes_read=0,
        lines_read=rows,
        rows_stored=rows,
        **(numbers | counts),
    )


def image_of(markdown: str, prefix: str = PREFIX) -> Any:
    """Return the pixels of a plot: rows of columns of red, green, blue and alpha, 0 to 255."""
    assert markdown.startswith(prefix)
    assert markdown.endswith(")")
    image = base64.b64decode(markdown[len(prefix) : -1], validate=True)
    return (imread(io.BytesIO(image), format="png") * 255).round().astype(int)


def count_pixels(image: Any, color: tuple[int, int, int]) -> int:
    return int((image[:, :, :3] == color).all(axis=2).sum())


def test_a_day_with_twice_the_rows_is_twice_as_high() -> None:
    image = image_of(volume_plot([report(DAY, 50), report(DAY + timedelta(days=1), 100)]))
    height, width, _ = image.shape
    assert (height, width) == (440, 800)
    middle = round(width * (0.11 + 0.97) / 2)
    assert count_pixels(image[:, middle:], BLUE) == pytest.approx(
        2 * count_pixels(image[:, :middle], BLUE), rel=0.05
    )


def test_the_background_is_opaque() -> None:
    assert (image_of(volume_plot([report(DAY)]))[:, :, 3] == 255).all()


def test_late_events_are_what_all_later_loads_have_gained() -> None:
    once = [report(DAY), report(DAY, 130, gained=30, lost=0)]
    twice = [report(DAY), report(DAY, 110, gained=10, lost=0), report(DAY, 130, gained=20, lost=0)]
    assert volume_plot(once) == volume_plot(twice)
    assert volume_plot(once) != volume_plot([report(DAY, 130)])


def test_a_missing_day_is_left_blank() -> None:
    image = image_of(volume_plot([report(DAY), report(DAY + timedelta(days=2))]))
    _, width, _ = image.shape
    third = round(width * (0.97 - 0.11) / 3)
    left = round(width * 0.11)
    assert count_pixels(image[:, left : left + third - 2], BLUE) > 0
    assert count_pixels(image[:, left + third + 2 : left + 2 * third - 2], BLUE) == 0


def test_of_several_years_only_the_last_is_plotted() -> None:
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


def test_differences_are_above_and_below_zero() -> None:
    prefix = "![Stored events minus those that Mixpanel counts, per day](data:image/png;base64,"
    image = image_of(difference_plot({DAY: 10, DAY_AFTER: -20}), prefix)
    height, width, _ = image.shape
    assert (height, width) == (220, 800)
    third = round(width * (0.97 - 0.11) / 3)
    left = round(width * 0.11)
    above, between, below = (
        count_pixels(image[:, left + number * third : left + (number + 1) * third - 2], ORANGE)
        for number in range(3)
    )
    assert between == 0
    assert below == pytest.approx(2 * above, rel=0.1)
    rows = [(image[row, :, :3] == ORANGE).all(axis=1).nonzero()[0] for row in range(height)]
    columns = [found.mean() for found in rows if len(found)]
    assert columns[0] < width / 2 < columns[-1]  # the first day above, the last one below


def test_equal_days_have_a_plot() -> None:
    assert difference_plot({DAY: 0}) != difference_plot({DAY: 1})


# In runs


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


def test_the_last_day_of_a_run_has_the_plot(server: SampleServer, tmp_path: Path) -> None:
    run = materialize([events], resources(tmp_path, server), days=(DAY, DAY_AFTER))
    assert [key for key, shown in run.metadata.items() if "plot" in shown] == [str(DAY_AFTER)]
    assert count_pixels(image_of(run.metadata[str(DAY_AFTER)]["plot"]), BLUE) > 0
    # An older day that is reloaded shows all days too.
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
    assert count_pixels(image_of(shown["plot"]), BLUE) > 0
    assert "gained" not in shown
    assert "gained" not in first.log.partition("2 rows from 2 lines")[2].splitlines()[0]
    second = materialize([plays("b", "c", "d")], resources(tmp_path), day=DAY)
    shown = second.metadata[str(DAY)]
    assert (shown["gained"], shown["lost"]) == (2, 1)
    assert ", 2 gained and 1 lost since the last load" in second.log


def test_each_day_of_a_range_of_records_shows_what_came_late(tmp_path: Path) -> None:
    def plays(ids: dict[int, str]) -> Any:
        return asset(
            lambda: [
                event(f"{day}{id_}", f"2024-01-{day}T12:00:00") for day in ids for id_ in ids[day]
            ],
            partitions_def=daily,
        )

    days = ("2024-01-15", "2024-01-16")
    first = materialize([plays({15: "ab", 16: "ab"})], resources(tmp_path), days=days)
    assert all("gained" not in first.metadata[day] for day in days)
    second = materialize([plays({15: "bcd", 16: "abc"})], resources(tmp_path), days=days)
    counts = {day: (shown["gained"], shown["lost"]) for day, shown in second.metadata.items()}
    assert counts == {"2024-01-15": (2, 1), "2024-01-16": (1, 0)}
    assert ["plot" in second.metadata[day] for day in days] == [False, True]


def test_nothing_is_lost_if_there_can_be_no_plot(
    server: SampleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def load_and_tamper(*arguments: Any) -> Generator[Load, None, None]:
        """Load the range; a user replaces the load log after the last day."""
        yield from range_run.load_range(*arguments)
        tamper(tmp_path, "DROP TABLE _load_log", "CREATE TABLE _load_log (day DATE)")

    monkeypatch.setattr(io_manager, "load_range", load_and_tamper)
    run = materialize([events], resources(tmp_path, server), days=(DAY, DAY_AFTER))
    assert run.success, run.error
    assert "all days are loaded, but the plot could not be drawn: " in run.log
    assert len(run.metadata) == 3
    assert all("plot" not in shown for shown in run.metadata.values())
    ((days,),) = query(tmp_path, "SELECT count(DISTINCT event_time::DATE) FROM events")
    assert days == 3
