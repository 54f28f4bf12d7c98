"""The input: days of typical web and mobile events, about 690 bytes each."""

import gzip
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

DAY = date(2024, 1, 15)
_BLOCK = 20_000  # lines written at once
_EVENTS = ("Page View", "Song Played", "Search", "Purchase", "Playlist Created")
_CITIES = ("San Francisco", "Berlin", "São Paulo", "東京", "Mumbai")
_LINE = (
    '{{"event":"{event}","properties":{{"time":{time},"distinct_id":"user_{user}",'
    '"$insert_id":"{insert_id:024x}","mp_processing_time_ms":{time}512,"$browser":"Chrome",'
    '"$browser_version":{version},"$city":"{city}",'
    '"$current_url":"https://music.example.com/albums/{album}",'
    '"$device":"iPhone","$device_id":"{device:032x}","$initial_referrer":"$direct",'
    '"$initial_referring_domain":"$direct","$lib_version":"2.49.0","$os":"Mac OS X",'
    '"$screen_height":1080,"$screen_width":1920,"mp_country_code":"US","mp_lib":"web",'
    '"album":{{"id":{album},"tags":["rock",null,"live"]}},"duration":{duration},'
    '"shuffle_mode":{shuffle},"price":{price},"plan":"premium",'
    '"trace":"{trace:032x}"}}}}\n'
)


def write_day(path: Path, events: int, which: date = DAY) -> Path:
    """Write a day's export as gzip JSON Lines unless the file exists; return its path."""
    if not path.exists():
        part = path.with_suffix(".part")
        with gzip.open(part, "wb", compresslevel=6) as file:
            for block in blocks(events, which):
                file.write(block)
        part.rename(path)
    return path


def blocks(events: int, which: date = DAY) -> Iterator[bytes]:
    """Yield the lines of a day in blocks."""
    for start in range(0, events, _BLOCK):
        count = min(_BLOCK, events - start)
        yield "".join(_lines(start, count, which)).encode()


def records(events: int, which: date = DAY) -> Iterator[dict[str, Any]]:
    """Yield a day's events as records of the data model, generated lazily."""
    midnight = datetime(which.year, which.month, which.day, tzinfo=UTC)
    source = random.Random(which.toordinal())
    for number in range(events):
        bits = source.getrandbits(128)
        yield {
            "event_name": _EVENTS[bits % len(_EVENTS)],
            "event_time": midnight + timedelta(seconds=number * 86_400 // events),
            "distinct_id": f"user_{bits % 100_003}",
            "insert_id": f"{bits >> 32:024x}",
            "properties": {
                "mp_processing_time_ms": 1_705_276_800_512 + number,
                "$browser": "Chrome",
                "$browser_version": 110 + bits % 12,
                "$city": _CITIES[bits % len(_CITIES)],
                "$current_url": "https://music.example.com/albums/1?utm_source=newsletter",
                "$device": "iPhone",
                "$device_id": f"{bits:032x}",
                "$initial_referrer": "$direct",
                "$initial_referring_domain": "$direct",
                "$lib_version": "2.49.0",
                "$os": "Mac OS X",
                "$screen_height": 1080,
                "$screen_width": 1920,
                "mp_country_code": "US",
                "mp_lib": "web",
                "album": {"id": bits % 9973, "tags": ["rock", None, "live"]},
                "duration": bits % 400,
                "shuffle_mode": bits % 2 == 0,
                "price": bits % 10_000 / 100,
                "plan": "premium",
                "trace": f"{bits ^ 0xFFFF:032x}",
            },
        }


def _lines(start: int, count: int, which: date) -> Iterator[str]:
    midnight = int(datetime(which.year, which.month, which.day, tzinfo=UTC).timestamp())
    source = random.Random(f"{which}/{start}")
    for number in range(start, start + count):
        bits = source.getrandbits(128)
        yield _LINE.format(
            event=_EVENTS[bits % len(_EVENTS)],
            time=midnight + number % 86_400,
            user=bits % 100_003,
            insert_id=bits >> 32,
            version=110 + bits % 12,
            city=_CITIES[bits % len(_CITIES)],
            album=bits % 9973,
            device=bits,
            duration=bits % 400,
            shuffle="true" if bits % 2 else "false",
            price=bits % 10_000 / 100,
            trace=bits ^ 0xFFFF,
        )
