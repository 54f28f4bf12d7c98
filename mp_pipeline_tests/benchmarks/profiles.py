"""A snapshot of profiles: downloading its pages, and loading it beside plain SQL."""

import gzip
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from mp_pipeline.mixpanel import RateLimits
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target
from mp_pipeline_tests.benchmarks.servers import SECONDS_PER_PAGE, file_server

PAGE_SIZE = 1000
CONCURRENT = 5
"""What a plan allows."""

_PROFILE = (
    '{{"$distinct_id":"{id:032x}","$properties":{{"$email":"user{number}@example.com",'
    '"$name":"User {number}","$last_seen":"2024-0{month}-1{digit}T1{digit}:30:00",'
    '"$city":"{city}","$region":"Berlin","$country_code":"DE","$timezone":"Europe/Berlin",'
    '"$initial_referrer":"$direct","$browser":"Chrome","$browser_version":{version},'
    '"$os":"Mac OS X","plan":"premium","signed_up":"2023-0{month}-0{month}","plays":{plays},'
    '"favorite_genres":["rock",null,"jazz"],"artist":{{"name":"The Sample Band","id":{plays}}},'
    '"newsletter":true,"lifetime_value":{value},"trace":"{trace:032x}"}}}}'
)
_CITIES = ("San Francisco", "Berlin", "São Paulo", "東京", "Mumbai")
_FLOOR = """
    INSERT INTO profiles
    SELECT distinct_id->>'$',
        json_merge_patch(properties, '{"$last_seen":null}'),
        (properties->>'$."$last_seen"')::TIMESTAMP
    FROM read_json(?, format = 'newline_delimited',
        columns = {'$distinct_id': 'JSON', '$properties': 'JSON'})
        AS lines(distinct_id, properties)
"""
"""The least that turns a file into rows of a table ``profiles``: nothing is checked."""


def write_pages(directory: Path, profiles: int) -> Path:
    """Write the pages of that many profiles, as Mixpanel sends them, unless they exist."""
    if not directory.exists():
        part = directory.with_suffix(".part")
        part.mkdir()
        for number, page in enumerate(_pages(profiles)):
            total = f'"total":{profiles},' if number == 0 else ""
            body = f'{{"page":{number},"page_size":{PAGE_SIZE},{total}"session_id":"s","results":['
            text = f'{body}{",".join(page)}],"status":"ok"}}'
            (part / f"{number}.json.gz").write_bytes(gzip.compress(text.encode(), compresslevel=6))
        part.rename(directory)
    return directory


def write_snapshot(path: Path, profiles: int) -> Path:
    """Write the file that a download of these pages gives, unless it exists."""
    if not path.exists():
        part = path.with_suffix(".part")
        with gzip.open(part, "wb", compresslevel=1) as file:
            for page in _pages(profiles):
                file.write("".join(profile + "\n" for profile in page).encode())
        part.rename(path)
    return path


def _pages(profiles: int) -> Iterator[list[str]]:
    source = random.Random(profiles)
    for start in range(0, profiles, PAGE_SIZE):
        yield [
            _PROFILE.format(
                id=(bits := source.getrandbits(128)),
                number=number,
                month=1 + bits % 9,
                digit=bits % 10,
                city=_CITIES[bits % len(_CITIES)],
                version=110 + bits % 12,
                plays=bits % 9973,
                value=bits % 100_000 / 100,
                trace=bits ^ 0xFFFF,
            )
            for number in range(start, min(start + PAGE_SIZE, profiles))
        ]


def download(directory: Path, pages: str) -> Figures:
    """Download a snapshot from a server that takes its time for each page."""
    with file_server(Path(pages)) as account:
        limits = RateLimits(directory / "state", concurrent_queries=CONCURRENT)
        with account.client(rate_limits=limits) as client:
            start = time.perf_counter()
            snapshot = client.export_profiles(directory=directory, page_size=PAGE_SIZE)
            return {
                "rows": snapshot.distinct,
                "seconds": time.perf_counter() - start,
                "pages": snapshot.pages,
            }


def floor(directory: Path, source: str) -> Figures:
    """Load with plain SQL into a table with the same columns and the same key."""
    start = time.perf_counter()
    with duckdb.connect(str(directory / "floor.duckdb")) as connection:
        connection.execute(
            "CREATE TABLE profiles "
            "(distinct_id VARCHAR NOT NULL, properties JSON, last_seen TIMESTAMP)"
        ).fetchall()
        ((rows,),) = connection.execute(_FLOOR, [source]).fetchall()
        connection.execute("ALTER TABLE profiles ADD PRIMARY KEY (distinct_id)").fetchall()
    return {"rows": rows, "seconds": time.perf_counter() - start}


def load(directory: Path, source: str) -> Figures:
    """Load with this project."""
    start = time.perf_counter()
    with StorageEngine(directory / "profiles.duckdb") as storage:
        report = storage.replace_table(
            "profiles", source, TableMetadata("profiles", datetime.now(UTC))
        )
    return {"rows": report.rows_stored, "seconds": time.perf_counter() - start}


def measure(profiles: int, rounds: int, directory: Path) -> list[Line]:
    """Download once; load with this project and with plain SQL in turn."""
    pages = write_pages(directory / "pages", profiles)
    source = str(write_snapshot(directory / "profiles.jsonl.gz", profiles))
    downloaded = run_alone(download, str(pages))
    loads: dict[str, list[Figures]] = {"floor": [], "load": []}
    for _ in range(rounds):
        loads["floor"].append(run_alone(floor, source))
        loads["load"].append(run_alone(load, source))
    least = downloaded["pages"] * SECONDS_PER_PAGE / CONCURRENT
    plain = Line("profiles", "floor: plain SQL", loads["floor"])
    ours = Line("profiles", "load", loads["load"])
    times = downloaded["seconds"] / least
    return [
        Line(
            "profiles",
            f"download, {SECONDS_PER_PAGE:g} s per page",
            [downloaded],
            targets=[
                Target(f"times {least:g} s", times, at_most=1.3),
                Target("MB peak", downloaded["peak_bytes"] / 1e6, at_most=300),
            ],
        ),
        plain,
        Line(
            ours.section,
            ours.name,
            ours.runs,
            targets=[Target("times the floor's time", ours.seconds / plain.seconds, at_most=1.5)],
        ),
    ]
