"""What the page of `mp-pipeline explore` asks the database; test_explore_page.py opens it."""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.explore import queries
from mp_pipeline.settings import Settings
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.support.metrics import FIRST, Event, compute_metrics, days_from, load
from mp_pipeline_tests.support.processes import holding, run_command, run_python

DAYS = days_from(FIRST, 3)
LAST = DAYS[-1]

# Each user visits on some days; u1 and u2 buy, u1 as another ID.
VISITS = {"u1": [0, 1, 2], "u2": [0, 2], "u3": [0], "u4": [1]}
WITHOUT_THE_EXTRA = """
    import sys
    from importlib.machinery import PathFinder

    class Without(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name == "marimo" else super().find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Without
    from mp_pipeline.cli import main
    main(["explore"])
"""


def at(day: int, hours: float) -> datetime:
    return datetime.combine(FIRST, time()) + timedelta(days=day, hours=hours)


def events() -> list[Event]:
    visits = [
        Event("Visit", user, at(day, 10), f"{user} {day}", {"$city": "Ulm" if day else "Bonn"})
        for user, days in VISITS.items()
        for day in days
    ]
    buys = [
        Event("Buy", "$device:d1", at(1, 12), "b1", {"$device_id": "d1", "$user_id": "u1"}),
        Event("Buy", "u2", at(0, 11), "b2", {"price/€": 5}),
    ]
    return visits + buys


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A database with three days, typed and with metrics."""
    path = tmp_path_factory.mktemp("explore") / "test.duckdb"
    with StorageEngine(path) as storage:
        load(storage, events(), DAYS)
        for day in DAYS:
            storage.type_events_day("events", day)
    compute_metrics(path)
    return Settings(mp_pipeline_database=path)


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    """A database with days, and nothing that is made from them."""
    path = tmp_path / "test.duckdb"
    with StorageEngine(path) as storage:
        load(storage, events(), DAYS)
    return Settings(mp_pipeline_database=path)


def ask(settings: Settings, query: Callable[..., Any], *args: object) -> list[tuple[Any, ...]]:
    """Return the rows that a query of the page returns, with days as dates."""
    found = queries.ask(settings, query, *args)
    for name in {"day", "cohort"} & set(found.columns):
        found[name] = found[name].dt.date
    return [tuple(row) for row in found.itertuples(index=False)]


def test_contents(settings: Settings) -> None:
    contents = queries.ask(settings, queries.contents)
    assert contents.days == DAYS
    assert contents.events == ["Visit", "Buy"]


def test_events_per_day(settings: Settings) -> None:
    assert ask(settings, queries.events_per_day, FIRST, DAYS[1]) == [
        (FIRST, "Visit", 3),
        (FIRST, "Buy", 1),
        (DAYS[1], "Visit", 2),
        (DAYS[1], "Buy", 1),
    ]


def test_rare_events_are_counted_together(settings: Settings) -> None:
    found = queries.ask(settings, queries.events_per_day, FIRST, FIRST, shown=1)
    assert [tuple(row) for row in found[["event", "events"]].to_numpy()] == [
        ("Visit", 3),
        ("other events", 1),
    ]


def test_active_users(settings: Settings) -> None:
    assert ask(settings, queries.active_users, LAST, LAST) == [
        (LAST, "DAU", 2),
        (LAST, "MAU", 4),
        (LAST, "WAU", 4),
    ]


def test_the_dictionary(settings: Settings) -> None:
    assert ask(settings, queries.described_events) == [
        ("Visit", "event.visit", 7, "77.8%", str(FIRST), str(LAST), 1),
        ("Buy", "event.buy", 2, "22.2%", str(FIRST), str(DAYS[1]), 3),
    ]
    assert ask(settings, queries.described_properties, "Buy") == [
        ("$device_id", "50.0%", "mp_device_id", "VARCHAR", str(DAYS[1]), str(DAYS[1])),
        ("$user_id", "50.0%", "mp_user_id", "VARCHAR", str(DAYS[1]), str(DAYS[1])),
        ("price/€", "50.0%", "price_", "BIGINT", str(FIRST), str(FIRST)),
    ]
    assert queries.ask(settings, queries.property_names, "Visit") == ["$city"]


def test_top_values(settings: Settings) -> None:
    assert ask(settings, queries.top_values, "Visit", "$city", FIRST, LAST) == [
        ("Ulm", 4, pytest.approx(4 / 7)),
        ("Bonn", 3, pytest.approx(3 / 7)),
    ]
    assert ask(settings, queries.top_values, "Buy", "price/€", FIRST, LAST) == [
        ("(none)", 1, 0.5),
        ("5", 1, 0.5),
    ]


def test_a_funnel(settings: Settings) -> None:
    found = queries.ask(settings, queries.funnel, ["Visit", "Buy"], FIRST, LAST, 7)
    assert list(found["event"]) == ["Visit", "Buy"]
    assert list(found["users"]) == [4, 2]
    assert list(found["from_start"]) == [1, 0.5]
    shorter = queries.ask(settings, queries.funnel, ["Visit", "Buy"], FIRST, LAST, 1)
    assert list(shorter["users"]) == [4, 1]


def test_a_funnel_by_a_property(settings: Settings) -> None:
    steps = ["Visit", "Buy"]
    found = queries.ask(settings, queries.funnel, steps, FIRST, LAST, 7, "$city")
    assert [tuple(row) for row in found[["value", "step", "users"]].to_numpy()] == [
        ("Bonn", 1, 3),
        ("Bonn", 2, 2),
        ("Ulm", 1, 3),
        ("Ulm", 2, 1),
    ]
    found = queries.ask(settings, queries.funnel, steps, FIRST, LAST, 7, "$city", shown=1)
    assert set(found["value"]) == {"Bonn"}
    found = queries.ask(settings, queries.funnel, ["Visit"], FIRST, LAST, 7, "price")
    assert list(found["value"]) == ["(none)"]


def test_retention(settings: Settings) -> None:
    found = ask(settings, queries.retention, "Visit", None, FIRST, LAST, "day")
    assert [(cohort, bucket, retained) for cohort, bucket, _, retained, *_ in found] == [
        (FIRST, 0, 2),
        (FIRST, 1, 2),
        (FIRST, 2, 2),
        (DAYS[1], 0, 0),
    ]
    assert [complete for *_, complete in found] == [True, True, False, True]
    latest = queries.ask(settings, queries.retention, None, None, FIRST, LAST, "day", cohorts=1)
    assert set(latest["cohort"].dt.date) == {DAYS[1]}


@pytest.mark.parametrize("unit", queries.BUCKETS)
def test_units_of_retention(settings: Settings, unit: str) -> None:
    found = ask(settings, queries.retention, None, "Buy", FIRST, LAST, unit)
    assert found[0][2:4] == ({"day": 3}.get(unit, 4), 2)


def test_a_timeline_has_all_ids_of_the_user(settings: Settings) -> None:
    for distinct_id in ("u1", "$device:d1"):
        found = ask(settings, queries.timeline, distinct_id, FIRST, LAST)
        assert [row[:3] for row in found] == [
            (at(2, 10), "Visit", "u1"),
            (at(1, 12), "Buy", "$device:d1"),
            (at(1, 10), "Visit", "u1"),
            (at(0, 10), "Visit", "u1"),
        ]
    assert len(ask(settings, queries.timeline, "u1", LAST, LAST)) == 1
    assert ask(settings, queries.timeline, "nobody", FIRST, LAST) == []


def test_most_active_users(settings: Settings) -> None:
    assert ask(settings, queries.most_active_users, FIRST, LAST)[:2] == [
        ("u1", 4, at(2, 10)),
        ("u2", 3, at(2, 10)),
    ]


DAYS_ARGUMENTS = (FIRST, LAST)


@pytest.mark.parametrize(
    ("query", "args", "assets"),
    [
        (queries.active_users, DAYS_ARGUMENTS, "identities, sessions and daily_metrics"),
        (queries.described_events, (), "typed_events"),
        (queries.described_properties, ("Visit",), "typed_events"),
        (queries.funnel, (["Visit"], *DAYS_ARGUMENTS, 7), "identities"),
        (queries.retention, (None, None, *DAYS_ARGUMENTS, "day"), "identities"),
        (queries.timeline, ("u1", *DAYS_ARGUMENTS), "identities"),
        (queries.most_active_users, DAYS_ARGUMENTS, "identities"),
    ],
)
def test_what_to_materialize(
    loaded: Settings, query: Callable[..., Any], args: tuple[object, ...], assets: str
) -> None:
    with pytest.raises(queries.UnavailableError, match=f"materialize {assets}"):
        queries.ask(loaded, query, *args)


def test_what_needs_only_events(loaded: Settings) -> None:
    assert len(ask(loaded, queries.events_per_day, FIRST, LAST)) == 5
    assert queries.ask(loaded, queries.property_names, "Visit") == []


def test_days_without_metrics(settings: Settings) -> None:
    with pytest.raises(queries.UnavailableError, match="materialize daily_metrics for them"):
        queries.ask(settings, queries.active_users, date(2020, 1, 1), date(2020, 1, 2))


def test_an_empty_database(tmp_path: Path) -> None:
    StorageEngine(tmp_path / "test.duckdb").close()
    settings = Settings(mp_pipeline_database=tmp_path / "test.duckdb")
    with pytest.raises(queries.UnavailableError, match="materialize events"):
        queries.ask(settings, queries.contents)


def test_days_without_events(tmp_path: Path) -> None:
    settings = Settings(mp_pipeline_database=tmp_path / "test.duckdb")
    with StorageEngine(settings.database) as storage:
        load(storage, [], DAYS)
    with pytest.raises(queries.UnavailableError, match="The loaded days have no events"):
        queries.ask(settings, queries.contents)


def test_no_database(tmp_path: Path) -> None:
    settings = Settings(mp_pipeline_database=tmp_path / "test.duckdb")
    with pytest.raises(queries.UnavailableError, match="no database at"):
        queries.ask(settings, queries.contents)


def test_a_writer_does_not_wait(settings: Settings) -> None:
    queries.ask(settings, queries.contents)
    StorageEngine(settings.database, lock_timeout=0).close()


def test_while_another_process_writes(loaded: Settings) -> None:
    with (
        holding(Path(str(loaded.database))) as pid,
        pytest.raises(queries.UnavailableError) as caught,
    ):
        queries.ask(loaded, queries.contents)
    assert str(caught.value).startswith("Another process is writing to the database. Retry when")
    assert f"(PID {pid}) holds it" in str(caught.value)
    assert queries.ask(loaded, queries.contents).days == DAYS


def test_the_command_without_the_extra(tmp_path: Path) -> None:
    done = run_python(WITHOUT_THE_EXTRA, tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: the page needs the extra 'explore'; install it: pip install -e '.[explore]'\n"
    )


def test_the_help_names_the_options(tmp_path: Path) -> None:
    printed = run_command(tmp_path, "explore", "--help")
    assert "--port" in printed
    assert "--no-browser" in printed
