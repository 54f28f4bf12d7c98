"""The events and profiles of the sample project, made from the day alone."""

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from mp_pipeline.sample import catalogue
from mp_pipeline.sample.users import HOURS, LAUNCH, WEEKDAYS, User, pick, users_until

EVENTS_PER_DAY = 2500

_DAY_SECONDS = 86_400
_DAY_MS = _DAY_SECONDS * 1000
_VISIT_EVENTS = 8
_LATE_VISITS = 0.01
_RESENT_EVENTS = 0.002


def events_of_day(
    day: date, *, events_per_day: int = EVENTS_PER_DAY, arrived_by: date | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the events of one UTC day as Mixpanel's export gives them, the same ones every time.

    Args:
        day: The day; days before the product's launch (2023-01-01) have no events.
        events_per_day: About how many events a day at the beginning of 2024 has. Other days have
            more or fewer: Saturdays more than Mondays, later months more than earlier ones.
        arrived_by: Leave out the events that Mixpanel has received only after the end of this
            UTC day; None gives all of them.

    Yields:
        `{"event": name, "properties": {...}}`, roughly in the order of `time` (epoch seconds,
        UTC, within the day). A few arrive days late by `mp_processing_time_ms`, and a few come
        twice with the same event, `distinct_id`, `time` and `$insert_id`. Objects and lists
        inside the properties are shared between events: read them, do not change them.
    """
    events = _events(day, events_per_day)
    if arrived_by is None:
        return events
    end_ms = _midnight(arrived_by + timedelta(days=1)) * 1000
    return (event for event in events if event["properties"]["mp_processing_time_ms"] < end_ms)


def profiles_as_of(day: date) -> Iterator[dict[str, Any]]:
    """Yield the profiles as they are at the end of a UTC day, the same ones every time.

    Args:
        day: The day; before the product's launch (2023-01-01) there are no profiles.

    Yields:
        `{"$distinct_id": id, "$properties": {...}}`, one for everyone who has signed up by then.
        `$created` and `$last_seen` are ISO 8601 in UTC without an offset. Objects and lists
        inside the properties are shared: read them, do not change them.
    """
    today = day.toordinal()
    for user in users_until(day):
        last_day = user.last_day(today)
        plays = 1 + int((last_day - user.signed_up) * user.plays_per_day)
        city, region, country, timezone = user.place
        yield {
            "$distinct_id": user.distinct_id,
            "$properties": {
                "$name": user.name,
                "$email": f"{user.distinct_id}@example.com",
                "$created": user.visit_time(user.signed_up).isoformat(),
                "$last_seen": user.visit_time(last_day).isoformat(),
                "$city": city,
                "$region": region,
                "$country_code": country,
                "$timezone": timezone,
                "plan": user.plan_on(today),
                "credits": plays // 10 * 5 % 500,
                "plays": plays,
                "favorite_genres": user.genres,
                "favorite_artist": user.artist,
                "newsletter": user.newsletter,
                "referred_by": user.referred_by,
            },
        }


def _events(day: date, events_per_day: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"events/{day.isoformat()}")  # noqa: S311 - reproducible, not secret
    today = day.toordinal()
    midnight = _midnight(day)
    wanted = _wanted(day, events_per_day, rng)
    users = sorted(
        (user for user in users_until(day) if user.comes_on(today)),
        key=lambda user: user.signed_up,
        reverse=True,
    )
    # Everyone comes once at their own time, and some come again, until there are events enough.
    users = users[: -(-wanted // _VISIT_EVENTS)]
    regulars = [user for user in users if user.signed_up < today]
    first_visits = sorted(
        ((user.visit_second(today), user.number, user) for user in users), reverse=True
    )
    made = 0
    for hour in range(24):
        wanted_so_far = wanted * sum(HOURS[: hour + 1]) / sum(HOURS)
        hour_end = (hour + 1) * 3600
        resent = []
        while True:
            if first_visits and first_visits[-1][0] < hour_end:
                second, _, user = first_visits.pop()
                steps = _first_visit(rng, user, today)
            elif made < wanted_so_far and regulars:
                second, user = hour * 3600 + int(rng.random() * 3600), pick(rng, regulars)
                steps = _visit(rng)
            else:
                break
            for event in _visit_events(rng, user, today, midnight, second, steps):
                yield event
                made += 1
                if rng.random() < _RESENT_EVENTS:
                    resent.append(_sent_again(rng, event))
        yield from resent
        made += len(resent)


def _wanted(day: date, events_per_day: int, rng: random.Random) -> int:
    """Say how many events a day should have: more at the weekend, and more every month."""
    age = (day - LAUNCH).days
    if age < 0:
        return 0
    growth = 0.66 + 1.18 * age / (age + 900)
    return round(events_per_day * growth * WEEKDAYS[day.weekday()] * (0.97 + 0.06 * rng.random()))


def _visit_events(
    rng: random.Random,
    user: User,
    today: int,
    midnight: int,
    second: int,
    steps: Iterator[tuple[str, int, dict[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """Turn the steps of a visit that begins at a second of the day into events."""
    common = {"distinct_id": user.distinct_id, **user.device, "plan": user.plan_on(today)}
    late = rng.random() < _LATE_VISITS  # a device that was offline
    delay_ms = int(_DAY_MS * (1 + 5 * rng.random()) if late else 400 + 4000 * rng.random())
    for name, seconds, own in steps:
        if second >= _DAY_SECONDS:
            return
        time = midnight + second
        yield {
            "event": name,
            "properties": {
                "time": time,
                **common,
                **own,
                "$insert_id": f"{rng.getrandbits(64):016x}",
                "mp_processing_time_ms": time * 1000 + delay_ms,
            },
        }
        second += seconds


def _sent_again(rng: random.Random, event: dict[str, Any]) -> dict[str, Any]:
    """Copy an event as it looks when a client sends it a second time, up to ten minutes later."""
    properties = event["properties"]
    later_ms = properties["mp_processing_time_ms"] + 1000 + int(600_000 * rng.random())
    return {**event, "properties": {**properties, "mp_processing_time_ms": later_ms}}


def _first_visit(
    rng: random.Random, user: User, today: int
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the steps of a user's first visit of the day, with what happens once in a life."""
    if today == user.signed_up:
        method = pick(rng, ("email", "google", "apple"))
        yield "Sign Up", 20, {"method": method, "referred_by": user.referred_by}
    payment = {
        "plan": user.paid_plan,
        "amount": catalogue.PLANS[user.paid_plan],
        "currency": catalogue.CURRENCIES.get(user.place[2], "EUR"),
    }
    if today == user.subscribed:
        yield "Subscription Started", 5, {**payment, "trial": rng.random() < 0.5}
    if today == user.cancelled:
        reason = pick(rng, ("price", "missing songs", None))
        yield "Subscription Cancelled", 5, {**payment, "reason": reason}
    yield from _visit(rng)


def _visit(rng: random.Random) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the steps of a visit: an event's name, the seconds it takes, its own properties."""
    random_unit = rng.random
    campaign = None
    if random_unit() < 0.1:
        campaign = {
            "source": pick(rng, ("newsletter", "instagram")),
            "medium": "social",
            "term": None,
        }
    yield (
        "Page View",
        15,
        {"page": "/home", "url": "https://music.example.com/home", "campaign": campaign},
    )
    shuffle = random_unit() < 0.4
    for track in range(1, 2 + int(9 * random_unit() ** 1.5)):
        if random_unit() < 0.35:
            page = pick(rng, catalogue.PAGES)
            yield (
                "Page View",
                25,
                {"page": page, "url": f"https://music.example.com{page}", "campaign": None},
            )
        # Squared: a few songs are played far more often than the rest.
        song = catalogue.SONGS[int(len(catalogue.SONGS) * random_unit() ** 2)]
        completed = random_unit() < 0.7
        seconds = song["duration"] if completed else int(song["duration"] * random_unit())
        yield (
            "Song Played",
            seconds + 2,
            {
                **song,
                "seconds_played": seconds,
                "completed": completed,
                "shuffle_mode": shuffle,
                "playlist": {"track": track, "shared": False} if shuffle else None,
            },
        )
    chance = random_unit()
    if chance < 0.12:
        query = pick(rng, catalogue.SEARCHES)
        yield "Search", 10, {"query": query, "results": int(40 * random_unit())}
    elif chance < 0.20:
        songs = [pick(rng, catalogue.SONGS)["song_id"] for _ in range(3)]
        yield "Playlist Created", 30, {"songs": songs, "public": random_unit() < 0.5}
    elif chance < 0.23:
        price, quantity = pick(rng, (12.5, 19.0, 24.99)), 1 + int(3 * random_unit())
        items = [{"sku": f"vinyl-{int(50 * random_unit())}", "price": price, "quantity": quantity}]
        yield (
            "Purchase",
            60,
            {
                "amount": round(price * quantity, 2),
                "currency": "EUR",
                "items": items,
                "coupon": None,
            },
        )


def _midnight(day: date) -> int:
    """Give the epoch second at which a UTC day begins."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
