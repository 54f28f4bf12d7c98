"""Mixpanel's own counts: the client, the sample server, the check, and what status shows."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.assets import events_asset
from mp_pipeline.checks import mixpanel_counts
from mp_pipeline.mixpanel import (
    MixpanelClient,
    MixpanelError,
    PlanError,
    RateLimitError,
    RateLimits,
    TruncatedExportError,
    UnexpectedAnswerError,
)
from mp_pipeline.mixpanel.windows import per_hour
from mp_pipeline.project import Project
from mp_pipeline.reconciliation import compare_day, find_causes
from mp_pipeline.sample import SampleServer, events_of_day
from mp_pipeline.settings import Settings
from mp_pipeline.storage import Reconciliation, StorageEngine
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.client import client_of
from mp_pipeline_tests.support.dagster import Run, materialize, plain, resources
from mp_pipeline_tests.support.databases import query
from mp_pipeline_tests.support.processes import run_command
from mp_pipeline_tests.support.project import PROJECT, events
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, DAYS, NEXT_DAY, export_line
from mp_pipeline_tests.support.servers import (
    EVENTS_PER_DAY,
    ScriptedServer,
    chunked,
    credentials,
    insert_ids_of,
    reply,
)

TODAY = date(2024, 1, 31)
NOW = datetime(2024, 1, 31, 3, tzinfo=UTC)
DECADE = [DAY + timedelta(days=offset) for offset in range(10)]
ROWS = {day: len(insert_ids_of(day)) for day in DAYS}


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY) as running:
        yield running


def client_for(server: SampleServer, **options: Any) -> MixpanelClient:
    return MixpanelClient(
        server.project_id, server.username, server.secret, query_url=server.query_url, **options
    )


# The client


def sample_counts(day: date) -> Counter[str]:
    """Return the sample project's events of a day by name, without those that came twice."""
    found = {
        (event["event"], event["properties"]["distinct_id"], event["properties"]["$insert_id"])
        for event in events_of_day(day, events_per_day=EVENTS_PER_DAY)
    }
    return Counter(name for name, *_ in found)


def test_events_are_counted_by_name_and_day(server: FaultyServer) -> None:
    with client_for(server) as client:
        names = client.list_event_names()
        assert {"Song Played", "Page View", "Search", "Purchase"} <= set(names)
        counts = client.count_events(DAY, DAY_AFTER, [*names, "No Such Event"])
    for day in DAYS:
        assert {name: days[day] for name, days in counts.items() if days[day]} == sample_counts(day)
    assert len(server.requests) == 2


def test_fifty_names_are_requested_at_once(server: FaultyServer) -> None:
    names = [f"event {number}" for number in range(120)]
    with client_for(server) as client:
        assert set(client.count_events(DAY, TODAY, names)) == set(names)
    requested = [json.loads(request.query["event"]) for request in server.requests]
    assert [len(some) for some in requested] == [50, 50, 20]
    assert [name for some in requested for name in some] == names
    (query_,) = {
        tuple(request.query[name] for name in ("type", "unit", "from_date", "to_date"))
        for request in server.requests
    }
    assert query_ == ("general", "day", str(DAY), str(TODAY))


def test_long_names_do_not_make_a_url_too_long(server: FaultyServer) -> None:
    names = [f"{number}{'é' * 254}" for number in range(6)]
    with client_for(server) as client:
        assert set(client.count_events(DAY, DAY, names)) == set(names)
    requested = [json.loads(request.query["event"]) for request in server.requests]
    assert [len(some) for some in requested] == [2, 2, 2]


def test_counts_are_queries_of_the_rate_limit(server: FaultyServer, tmp_path: Path) -> None:
    limits = RateLimits(tmp_path, queries=(per_hour(2),))
    with client_for(server, rate_limits=limits, max_rate_limit_wait_seconds=1) as client:
        client.list_event_names()
        client.count_events(DAY, DAY, ["Search"])
        with pytest.raises(RateLimitError, match="counts of 2024-01-15 failed"):
            client.count_events(DAY, DAY, ["Search"])
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"data": {"values": {"Search": {"2024-01-15": 1}', TruncatedExportError),
        (b"", TruncatedExportError),
        (b"<html>Sign in</html>", UnexpectedAnswerError),
        (b'{"error": "project is being moved"}', UnexpectedAnswerError),
        (b'{"data": {"values": {"Search": {"2024-01-15": -1}}}}', UnexpectedAnswerError),
        (b'{"data": {"values": {"Search": {"2024-01-15": 1.5}}}}', UnexpectedAnswerError),
        (b'{"data": {"values": {"Search": {"2024-01-15": NaN}}}}', UnexpectedAnswerError),
        (b'{"data": {"values": {"Search": {"2024-01-15": null}}}}', UnexpectedAnswerError),
        (b'{"data": {"values": {"Search": {"monday": 1}}}}', UnexpectedAnswerError),
        (b'{"data": {"values": [1]}}', UnexpectedAnswerError),
        (b"[1]", UnexpectedAnswerError),
    ],
)
def test_answers_without_counts(
    scripted: ScriptedServer, waits: list[float], body: bytes, kind: type[MixpanelError]
) -> None:
    scripted.replies = [reply(body)]
    with client_of(scripted) as client, pytest.raises(kind, match="counts of") as caught:
        client.count_events(DAY, DAY, ["Search"])
    assert len(scripted.requests) == caught.value.attempts == 5
    assert len(waits) == 4


def test_a_count_that_breaks_off_is_requested_again(
    scripted: ScriptedServer, waits: list[float]
) -> None:
    body = b'{"data": {"series": [], "values": {"Search": {"2024-01-15": 7}}}}'
    scripted.replies = [chunked(body[:20], end=b""), reply(body)]
    with client_of(scripted) as client:
        assert client.count_events(DAY, DAY, ["Search"]) == {"Search": {DAY: 7}}
    assert len(waits) == 1


def test_a_plan_without_counts(server: FaultyServer) -> None:
    refuse(server)
    with client_for(server) as client, pytest.raises(PlanError, match="MIXPANEL_RECONCILE"):
        client.list_event_names()


# The comparison


def compared(stored: int, counted: int) -> str:
    return compare_day(DAY, {"Search": stored}, {"Search": {DAY: counted}}).outcome


@pytest.mark.parametrize(
    ("stored", "counted", "outcome"),
    [
        (0, 0, "equal"),
        (1000, 1000, "equal"),
        (1001, 1000, "close"),
        (5000, 5005, "close"),
        (50_000, 50_005, "close"),
        (50_000, 50_006, "warning"),
        (999, 998, "warning"),
        (990, 1000, "warning"),
        (989, 1000, "error"),
        (1000, 989, "error"),
        (1, 0, "error"),
        (0, 1, "error"),
    ],
)
def test_outcomes(stored: int, counted: int, outcome: str) -> None:
    assert compared(stored, counted) == outcome


def test_an_event_that_differs_in_an_equal_sum_is_a_warning() -> None:
    day = compare_day(DAY, {"Old": 50, "New": 50}, {"Old": {DAY: 40}, "New": {DAY: 60}})
    assert (day.difference, day.outcome) == (0, "warning")
    assert [(each.event, each.difference) for each in day.differences] == [
        ("New", -10),
        ("Old", 10),
    ]


def test_events_that_were_not_loaded_are_not_compared() -> None:
    counted = {"Search": {DAY: 3}, "Purchase": {DAY: 9}}
    assert compare_day(DAY, {"Search": 3}, counted, names=["Search"]).outcome == "equal"
    assert compare_day(DAY, {"Search": 3}, counted, names=["Search", "Purchase"]).counted == 12


def causes(stored: Mapping[str, int], counted: Mapping[str, int]) -> list[str]:
    days = {name: {DAY: number} for name, number in counted.items()}
    return find_causes([compare_day(DAY, stored, days)])


@pytest.mark.parametrize(
    ("stored", "erased", "outcome"),
    [(90, 10, "close"), (90, 9, "error"), (110, 10, "error"), (100, 10, "equal")],
)
def test_lines_of_erased_users_explain_what_is_missing(
    stored: int, erased: int, outcome: str
) -> None:
    day = compare_day(DAY, {"A": stored}, {"A": {DAY: 100}}, erased=erased)
    assert day.outcome == outcome
    assert any("erased users" in cause for cause in find_causes([day])) is (outcome != "equal")


def test_causes() -> None:
    assert causes({"A": 1}, {"A": 1}) == []
    assert "$hotshard_events" in causes({"A": 5, "$hotshard_events": 3}, {"A": 9})[0]
    only_here, only_there = causes({"A": 5, "Old": 3}, {"A": 5, "New": 4})
    assert only_here.startswith("only here: Old (renamed, merged or deleted")
    assert only_there.startswith("only at Mixpanel: New (renamed or merged")
    assert causes({"A": 5}, {"A": 9})[0].startswith("Mixpanel has more: events that arrived")
    assert causes({"A": 9}, {"A": 5})[0].startswith("more is stored: Mixpanel has deleted")


@pytest.mark.parametrize(
    ("differences", "shifted"),
    [
        ([4, -3, 2, 0, -3], True),
        ([4, -4], False),  # too few to tell
        ([4, -4, 1, 0, 0, 0, 0], False),
        ([-4, -3, -2, 0], False),
        ([9, 8, 7, -1], False),
    ],
)
def test_days_that_balance_are_shifted(differences: list[int], shifted: bool) -> None:
    days = [
        compare_day(day, {"A": 100 + difference}, {"A": {day: 100}})
        for day, difference in zip(DECADE, differences, strict=False)
    ]
    assert any("MIXPANEL_PROJECT_TIMEZONE" in cause for cause in find_causes(days)) is shifted


def test_an_event_that_is_equal_on_one_day_is_not_only_here() -> None:
    counted = {"A": {DAY: 5}, "B": {DAY: 1, NEXT_DAY: 1}}
    days = [compare_day(day, {"A": 5, "B": 1}, counted) for day in (DAY, NEXT_DAY)]
    assert find_causes(days)[0].startswith("more is stored")


# The check


def refuse(server: FaultyServer, status: int = 402) -> None:
    """Have every request for names and counts refused."""
    for path in ("/events", "/events/names"):
        server.faults.append(
            Fault("status", path, None, status=status, body=b'{"error": "Upgrade your plan"}')
        )


def load(
    directory: Path,
    server: SampleServer,
    project: Project = PROJECT,
    *,
    last: date = DAY_AFTER,
    **fields: Any,
) -> None:
    """Load days of events from 2024-01-15 on."""
    asset = events if project is PROJECT else events_asset(project)
    assert materialize([asset], resources(directory, server, **fields), days=(DAY, last)).success


def judge(
    directory: Path,
    server: SampleServer,
    project: Project = PROJECT,
    *,
    now: datetime = NOW,
    **fields: Any,
) -> dg.AssetCheckEvaluation:
    """Return the result of the check when it runs by itself."""
    asset = events if project is PROJECT else events_asset(project)
    check = mixpanel_counts(project, asset, clock=lambda: now)
    run = materialize(
        [asset, check],
        resources(directory, server, **fields),
        only=dg.AssetSelection.checks(check.check_key),
    )
    assert run.success, run.error
    return run.checks["mixpanel_counts"]


def shown(evaluation: dg.AssetCheckEvaluation, name: str) -> Any:
    return plain(evaluation.metadata[name])


def recorded(directory: Path) -> list[Reconciliation]:
    with StorageEngine.open_existing(directory / "test.duckdb") as engine:
        return engine.list_reconciliations("events")


def status(directory: Path, *options: str) -> str:
    return run_command(directory, "status", *options, env={"MP_PIPELINE_DATABASE": "test.duckdb"})


def test_days_are_equal_to_mixpanels_counts(tmp_path: Path, server: FaultyServer) -> None:
    load(tmp_path, server)
    server.requests.clear()
    result = judge(tmp_path, server)
    assert result.passed, result.description
    assert result.description == (
        f"all 3 days, with {sum(ROWS.values()):,} events, are equal to Mixpanel's counts"
    )
    assert (shown(result, "compared"), shown(result, "equal")) == (3, 3)
    assert shown(result, "differences") == []
    assert [request.path for request in server.requests] == [
        "/api/query/events/names",
        "/api/query/events",
    ]
    assert [
        (found.day, found.stored, found.counted, found.outcome) for found in recorded(tmp_path)
    ] == [(day, ROWS[day], ROWS[day], "equal") for day in DAYS]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_days_are_those_of_the_projects_zone(tmp_path: Path, zone: str) -> None:
    project = Project(Settings(mixpanel_project_timezone=zone))
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY, timezone=zone) as server:
        load(tmp_path, server, project)
        result = judge(tmp_path, server, project)
    assert shown(result, "equal") == 3, result.description


def test_another_zone_is_named(tmp_path: Path) -> None:
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY, timezone="Asia/Tokyo") as server:
        load(tmp_path, server, last=DAY + timedelta(days=8))
        result = judge(tmp_path, server)
    assert result.passed is False
    assert shown(result, "causes") == (
        "some days have more and others fewer, which balance: MIXPANEL_PROJECT_TIMEZONE is "
        "probably not the time zone of the project in Mixpanel"
    )


def test_a_missing_event_is_named(tmp_path: Path, server: FaultyServer) -> None:
    server.faults.append(Fault("missing_line", day=DAY))
    load(tmp_path, server)
    assert server.faults == []
    result = judge(tmp_path, server)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    (row,) = shown(result, "differences")
    assert (row["day"], row["difference"]) == (str(DAY), -1)
    assert str(result.description).startswith(
        f"1 of 3 days differ: 2024-01-15 has {ROWS[DAY] - 1} events, Mixpanel counts "
        f"{ROWS[DAY]} ({row['event']} -1). Mixpanel has more: events that arrived after"
    )
    days = {row["day"]: row["outcome"] for row in shown(result, "days")}
    assert days == {str(DAY): "warning", str(NEXT_DAY): "equal", str(DAY_AFTER): "equal"}
    assert shown(result, "plot").startswith("![Stored events minus those that Mixpanel counts")
    printed = status(tmp_path)
    states = [
        line.replace("│", " ").split()[-1] for line in printed.splitlines() if "│ 2024" in line
    ]
    assert states == ["warning", "equal", "equal"]
    assert f"2024-01-15: {ROWS[DAY] - 1} events are stored, Mixpanel counts" in printed


def test_a_day_of_which_much_is_missing_is_an_error(tmp_path: Path, server: FaultyServer) -> None:
    server.faults.append(Fault("body", body=export_line("only").encode() + b"\n", day=NEXT_DAY))
    load(tmp_path, server)
    result = judge(tmp_path, server)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "2024-01-16 has 0 events" in str(result.description)


def test_duplicates_that_are_not_compacted(tmp_path: Path) -> None:
    with FaultyServer(events_per_day=1000, today=TODAY, compact_duplicates=False) as server:
        load(tmp_path, server)
        result = judge(tmp_path, server)
        duplicates = dict(query(tmp_path, "SELECT day::VARCHAR, -duplicates FROM _load_log"))
        assert min(duplicates.values()) < 0
        assert {row["day"]: row["difference"] for row in shown(result, "days")} == duplicates
        assert result.passed is False
        assert "duplicates that it has not compacted yet" in str(result.description)
        server.project.compact_duplicates = True
        assert judge(tmp_path, server).passed


def test_events_that_arrived_after_the_load(tmp_path: Path) -> None:
    days = [DAY + timedelta(days=offset) for offset in range(9)]
    with FaultyServer(
        events_per_day=EVENTS_PER_DAY, today=days[-1], hold_back_late_events=True
    ) as server:
        load(tmp_path, server, last=days[-1])
        before = dict(query(tmp_path, "SELECT event_time::DATE, count(*) FROM events GROUP BY 1"))
        server.today = TODAY
        result = judge(tmp_path, server)
        late = {day: before[day] - sum(sample_counts(day).values()) for day in days}
        assert min(late.values()) < 0
        assert {row["day"]: row["difference"] for row in shown(result, "days")} == {
            str(day): late[day] for day in days
        }
        assert "events that arrived after the load" in str(result.description)
        assert "Reload the days" in str(result.description)
        load(tmp_path, server, last=days[-1])
        states = {
            day.split()[0]
            for day in status(tmp_path).replace("│", " ").splitlines()
            if "outdated" in day
        }
        assert states == {str(day) for day in days}
        assert judge(tmp_path, server).passed


def test_erased_users_are_no_difference(tmp_path: Path, server: FaultyServer) -> None:
    load(tmp_path, server)
    assert judge(tmp_path, server).passed
    ((user,),) = query(tmp_path, "SELECT mode(distinct_id) FROM events")
    with StorageEngine(tmp_path / "test.duckdb") as engine:
        assert engine.erase([user]).rows > 0
    assert "outdated" in status(tmp_path)
    result = judge(tmp_path, server)
    assert result.passed
    assert "only events of erased users are missing" in str(result.description)
    assert "lines of erased users are not stored" in shown(result, "causes")
    load(tmp_path, server)  # which leaves the user out
    assert judge(tmp_path, server).passed


def test_events_that_are_only_here(tmp_path: Path, server: FaultyServer) -> None:
    lines = [export_line("1", "Renamed").encode(), export_line("2", "$hotshard_events").encode()]
    server.faults.append(Fault("extra_lines", lines=lines, day=DAY))
    load(tmp_path, server)
    result = judge(tmp_path, server)
    assert result.passed is False
    assert "only here: Renamed (renamed, merged or deleted in Mixpanel" in shown(result, "causes")
    assert "$hotshard_events" in shown(result, "causes")
    assert [
        (row["event"], row["stored"], row["mixpanel"]) for row in shown(result, "differences")
    ] == [
        ("$hotshard_events", 1, 0),
        ("Renamed", 1, 0),
    ]


def test_a_plan_without_counts_passes_and_says_so(tmp_path: Path, server: FaultyServer) -> None:
    load(tmp_path, server)
    refuse(server)
    result = judge(tmp_path, server)
    assert result.passed
    assert result.description == "Mixpanel's counts are not available on this plan (402)"
    assert shown(result, "compared") == 0
    assert recorded(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "words"), [(500, "status 500"), (403, "status 403"), (401, "401")]
)
def test_a_refusal_is_never_passed(
    tmp_path: Path, server: FaultyServer, waits: list[float], code: int, words: str
) -> None:
    load(tmp_path, server)
    refuse(server, code)
    result = judge(tmp_path, server)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert words in str(result.description)
    assert len(waits) == (4 if code == 500 else 0)
    assert recorded(tmp_path) == []


def test_a_server_that_is_gone_is_never_passed(tmp_path: Path, waits: list[float]) -> None:
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY) as server:
        load(tmp_path, server)
    result = judge(tmp_path, server)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "list of event names failed" in str(result.description)
    assert len(waits) == 4


def test_days_with_a_filter_are_not_compared(tmp_path: Path, server: FaultyServer) -> None:
    load(tmp_path, server, where='properties["plan"] == "family"')
    server.requests.clear()
    result = judge(tmp_path, server)
    assert result.passed
    assert "2024-01-15 to 2024-01-17 were loaded with a filter (MIXPANEL_WHERE)" in str(
        result.description
    )
    assert server.requests == []
    load(tmp_path, server, last=DAY)
    assert shown(judge(tmp_path, server), "compared") == 1


def test_names_of_events_restrict_the_comparison(tmp_path: Path, server: FaultyServer) -> None:
    load(tmp_path, server, events=["Search", "Purchase"])
    server.requests.clear()
    result = judge(tmp_path, server)
    assert shown(result, "equal") == 3, result.description
    (request,) = server.requests
    assert json.loads(request.query["event"]) == ["Purchase", "Search"]


def run_days(directory: Path, server: SampleServer, now: datetime, project: Project) -> Run:
    """Load three days in a run that includes the check."""
    check = mixpanel_counts(project, events, clock=lambda: now)
    return materialize([events, check], resources(directory, server), days=(DAY, DAY_AFTER))


def test_a_run_compares_its_own_days_if_they_are_older_than_the_trailing_days(
    tmp_path: Path, server: FaultyServer
) -> None:
    load(tmp_path, server, last=DAY + timedelta(days=5))
    server.requests.clear()
    young = run_days(tmp_path, server, datetime(2024, 1, 22, tzinfo=UTC), PROJECT)
    result = young.checks["mixpanel_counts"]
    assert result.passed
    assert result.description == (
        "there is nothing to compare: the trailing 7 days, from 2024-01-15 on, may still get events"
    )
    assert [request.path for request in server.requests] == ["/api/2.0/export"] * 3
    older = run_days(tmp_path, server, datetime(2024, 1, 24, 23, tzinfo=UTC), PROJECT)
    assert shown(older.checks["mixpanel_counts"], "compared") == 2
    assert "trailing 7 days, from 2024-01-17 on" in shown(
        older.checks["mixpanel_counts"], "left_out"
    )
    assert [found.day for found in recorded(tmp_path)] == [DAY, NEXT_DAY]


def test_days_that_mixpanel_has_deleted_are_not_compared(
    tmp_path: Path, server: FaultyServer
) -> None:
    load(tmp_path, server)
    project = Project(Settings(mixpanel_retention_days=15))
    run = run_days(tmp_path, server, NOW, project)
    assert shown(run.checks["mixpanel_counts"], "compared") == 2
    assert "deleted the days before 2024-01-16" in shown(run.checks["mixpanel_counts"], "left_out")


def test_by_itself_it_compares_the_last_thirty_days(tmp_path: Path) -> None:
    project = Project(Settings(mixpanel_days_per_request=40))
    with FaultyServer(events_per_day=5, today=date(2024, 3, 31)) as server:
        load(tmp_path, server, project, last=DAY + timedelta(days=39))
        result = judge(tmp_path, server, project, now=datetime(2024, 3, 1, tzinfo=UTC))
    assert shown(result, "equal") == 30
    assert recorded(tmp_path)[-1].day == date(2024, 2, 22)


def test_nobody_holds_the_database_while_mixpanel_counts(tmp_path: Path) -> None:
    opened = []

    def open_database() -> date:
        if (tmp_path / "test.duckdb").exists():
            with StorageEngine(tmp_path / "test.duckdb", lock_timeout=0) as engine:
                opened.append(len(engine.list_days("events")))
        return TODAY

    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY) as server:
        load(tmp_path, server)
        server.today = open_database
        assert judge(tmp_path, server).passed
    assert opened
    assert set(opened) == {3}


def test_without_data_it_fails(tmp_path: Path, server: FaultyServer) -> None:
    result = judge(tmp_path, server)
    assert result.passed is False
    assert "test.duckdb; materialize an asset first" in str(result.description)
    with StorageEngine(tmp_path / "test.duckdb"):
        pass
    assert judge(tmp_path, server).description == "no data of events is loaded"
    assert server.requests == []


def test_the_table_of_a_day_was_dropped(tmp_path: Path, server: FaultyServer) -> None:
    load(tmp_path, server)
    with StorageEngine(tmp_path / "test.duckdb") as engine:
        engine.execute("DROP TABLE events_20240116")
    result = judge(tmp_path, server)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "1 of 3 days differ: 2024-01-16 has 0 events" in str(result.description)


# What status and check print


def test_status_shows_what_is_reconciled(tmp_path: Path, server: FaultyServer) -> None:
    load(tmp_path, server)
    assert "reconciled: never compared with Mixpanel's counts" in status(
        tmp_path, "--day", str(DAY)
    )
    judge(tmp_path, server)
    rows = ROWS[DAY]
    assert (
        f"reconciled: equal: {rows} events are stored, Mixpanel counts {rows}, checked"
        in status(tmp_path, "--day", str(DAY))
    )
    load(tmp_path, server, last=DAY)
    found = json.loads(status(tmp_path, "--json"))["days"]
    assert [day["reconciled"] for day in found] == ["outdated", "equal", "equal"]
    day = json.loads(status(tmp_path, "--json", "--day", str(NEXT_DAY)))["day"]
    assert day["reconciliation"]["counted"] == ROWS[NEXT_DAY]


def check(directory: Path, server: SampleServer, code: int = 0, **variables: str) -> str:
    return run_command(directory, "check", env=credentials(server) | variables, code=code)


def test_check_prints_whether_counts_are_available(tmp_path: Path, server: FaultyServer) -> None:
    server.today = datetime.now(UTC).date()
    assert "Mixpanel's counts: available; to compare them, set MIXPANEL_RECONCILE=true\n" in check(
        tmp_path, server
    )
    assert "Mixpanel's counts: available, a check compares them\n" in check(
        tmp_path, server, MIXPANEL_RECONCILE="true"
    )
    refuse(server)
    printed = check(tmp_path, server, MIXPANEL_RECONCILE="true")
    assert "Mixpanel's counts: not available on this plan (status 402)\n" in printed
    assert "Everything works." in printed


def test_check_fails_if_counts_are_wanted_and_refused(tmp_path: Path, server: FaultyServer) -> None:
    server.today = datetime.now(UTC).date()
    refuse(server, 403)
    assert "Mixpanel's counts: not available: counts of" in check(tmp_path, server)
    printed = check(tmp_path, server, MIXPANEL_RECONCILE="true", code=1)
    assert "Failed: counts of" in printed
    assert "status 403" in printed


def test_a_backfill_of_the_sample_compares_its_days(tmp_path: Path) -> None:
    run_command(tmp_path, "backfill", "--from", "2024-01-15", "--to", "2024-01-16", "--no-profiles")
    found = json.loads(run_command(tmp_path, "status", "--json"))
    assert [day["reconciled"] for day in found["days"]] == ["equal", "equal"]
