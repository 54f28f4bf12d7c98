"""The events and profiles of the sample project, generated from the day alone."""

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from mp_pipeline.sample import product
from mp_pipeline.sample.users import (
    HOUR_WEIGHTS,
    LAUNCH,
    WEEKDAY_WEIGHTS,
    User,
    pick,
    users_until,
)

EVENTS_PER_DAY = 2500

_DAY_SECONDS = 86_400
_DAY_MS = _DAY_SECONDS * 1000
_EVENTS_PER_VISIT = 8
_LATE_VISIT_CHANCE = 0.01
_RESEND_CHANCE = 0.002


def events_of_day(
    day: date, *, events_per_day: int = EVENTS_PER_DAY, arrived_by: date | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the events of one UTC day as Mixpanel's export has them. They are always the same.

    Args:
        day: The day. Days before the product's launch (2023-01-01) have no events.
        events_per_day: The approximate number of events of a day at the beginning of 2024.
            Saturdays have more events than Mondays, and later months more than earlier ones.
        arrived_by: Leave out events that Mixpanel receives after the end of this UTC day.
            None: yield all events.

    Yields:
        `{"event": name, "properties": {...}}`, roughly ordered by `time` (epoch seconds, UTC,
        within the day). According to `mp_processing_time_ms`, a few events arrive days late. A
        few are sent twice, with the same event, `distinct_id`, `time` and `$insert_id`. Events
        share the objects and lists in their properties: do not change these.

    Example:
        >>> from collections import Counter
        >>> from datetime import date
        >>> events = list(events_of_day(date(2024, 1, 15), events_per_day=100))
        >>> Counter(event["event"] for event in events).most_common(2)
        [('Song Played', 79), ('Page View', 42)]
        >>> events[0]["properties"]["$city"]
        'London'
    """
    events = _generate_events(day, events_per_day)
    if arrived_by is None:
        return events
    end_ms = _midnight(arrived_by + timedelta(days=1)) * 1000
    return (event for event in events if event["properties"]["mp_processing_time_ms"] < end_ms)


def profiles_as_of(day: date) -> Iterator[dict[str, Any]]:
    """Yield the user profiles as of the end of one UTC day. They are always the same.

    Args:
        day: The day. Before the product's launch (2023-01-01) there are no profiles.

    Yields:
        `{"$distinct_id": id, "$properties": {...}}`, one for each user who has signed up by
        then. `$created` and `$last_seen` are ISO 8601 in UTC, without an offset. Profiles share
        the objects and lists in their properties: do not change these.

    Example:
        >>> from datetime import date
        >>> profile = next(profiles_as_of(date(2024, 1, 15)))
        >>> profile["$distinct_id"], profile["$properties"]["plan"]
        ('user_1', 'free')
    """
    today = day.toordinal()
    for user in users_until(day):
        last_day = user.last_active_day(today)
        plays = 1 + int((last_day - user.signed_up) * user.plays_per_day)
        city, region, country, timezone = user.place
        yield {
            "$distinct_id": user.distinct_id,
            "$properties": {
                "$name": user.name,
                "$email": f"{user.distinct_id}@example.com",
                "$created": user.first_visit_time(user.signed_up).isoformat(),
                "$last_seen": user.first_visit_time(last_day).isoformat(),
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


def _generate_events(day: date, events_per_day: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"events/{day.isoformat()}")  # noqa: S311 - reproducible data, no secrets
    today = day.toordinal()
    midnight = _midnight(day)
    target = _target_count(day, events_per_day, rng)
    users = sorted(
        (user for user in users_until(day) if user.is_active_on(today)),
        key=lambda user: user.signed_up,
        reverse=True,
    )
    # Every user visits once at a time of their own. Then some return until the target is reached.
    users = users[: -(-target // _EVENTS_PER_VISIT)]
    returning = [user for user in users if user.signed_up < today]
    first_visits = sorted(
        ((user.first_visit_second(today), user.number, user) for user in users), reverse=True
    )
    count = 0
    for hour in range(24):
        target_so_far = target * sum(HOUR_WEIGHTS[: hour + 1]) / sum(HOUR_WEIGHTS)
        hour_end = (hour + 1) * 3600
        resent = []
        while True:
            if first_visits and first_visits[-1][0] < hour_end:
                second, _, user = first_visits.pop()
                steps = _first_visit_steps(rng, user, today)
            elif count < target_so_far and returning:
                second, user = hour * 3600 + int(rng.random() * 3600), pick(rng, returning)
                steps = _visit_steps(rng)
            else:
                break
            for event in _generate_visit(rng, user, today, midnight, second, steps):
                yield event
                count += 1
                if rng.random() < _RESEND_CHANCE:
                    resent.append(_resend(rng, event))
        yield from resent
        count += len(resent)


def _target_count(day: date, events_per_day: int, rng: random.Random) -> int:
    """Return the number of events to generate: more on weekends, and more every month."""
    age = (day - LAUNCH).days
    if age < 0:
        return 0
    growth = 0.66 + 1.18 * age / (age + 900)
    weekday = WEEKDAY_WEIGHTS[day.weekday()]
    return round(events_per_day * growth * weekday * (0.97 + 0.06 * rng.random()))


def _generate_visit(
    rng: random.Random,
    user: User,
    today: int,
    midnight: int,
    second: int,
    steps: Iterator[tuple[str, int, dict[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """Yield the events of a visit that starts at a second of the day. It ends at midnight."""
    common = {"distinct_id": user.distinct_id, **user.device, "plan": user.plan_on(today)}
    late = rng.random() < _LATE_VISIT_CHANCE  # the device was offline
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


def _resend(rng: random.Random, event: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of an event that the client sends again, up to ten minutes later."""
    properties = event["properties"]
    later_ms = properties["mp_processing_time_ms"] + 1000 + int(600_000 * rng.random())
    return {**event, "properties": {**properties, "mp_processing_time_ms": later_ms}}


def _first_visit_steps(
    rng: random.Random, user: User, today: int
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the steps of a user's first visit of a day, including a sign-up or a new plan."""
    if today == user.signed_up:
        method = pick(rng, ("email", "google", "apple"))
        yield "Sign Up", 20, {"method": method, "referred_by": user.referred_by}
    payment = {
        "plan": user.paid_plan,
        "amount": product.PLANS[user.paid_plan],
        "currency": product.CURRENCIES.get(user.place[2], "EUR"),
    }
    if today == user.subscribed:
        yield "Subscription Started", 5, {**payment, "trial": rng.random() < 0.5}
    if today == user.cancelled:
        reason = pick(rng, ("price", "missing songs", None))
        yield "Subscription Cancelled", 5, {**payment, "reason": reason}
    yield from _visit_steps(rng)


def _visit_steps(rng: random.Random) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the steps of a visit: the event's name, its duration in seconds, its properties."""
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
            page = pick(rng, product.PAGES)
            yield (
                "Page View",
                25,
                {"page": page, "url": f"https://music.example.com{page}", "campaign": None},
            )
        # Squared, so that a few songs are played far more often than the rest.
        song = product.SONGS[int(len(product.SONGS) * random_unit() ** 2)]
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
        query = pick(rng, product.SEARCHES)
        yield "Search", 10, {"query": query, "results": int(40 * random_unit())}
    elif chance < 0.20:
        songs = [pick(rng, product.SONGS)["song_id"] for _ in range(3)]
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
    """Return the epoch second at which a UTC day starts."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
