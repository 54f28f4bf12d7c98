"""The users of the sample product: who they are, when they are active, and what they pay.

All facts about a user follow from the user's number, and activity on a day from the number and
the day. So any day can be generated without the days before it.
"""

import bisect
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

from mp_pipeline.sample import product

LAUNCH = date(2023, 1, 1)
"""The product's first day. There are no users and no events before it."""

WEEKDAY_WEIGHTS = (0.90, 0.92, 0.95, 0.98, 1.10, 1.18, 0.97)
"""How active users are on each day of the week, Monday first. The average is 1."""

# fmt: off
HOUR_WEIGHTS = (
    30, 20, 13, 10, 10, 16, 34, 58, 66, 54, 48, 50, 58, 56, 50, 52, 60, 74, 88, 96, 94, 80, 60, 42,
)
# fmt: on
"""How active users are in each hour of the day (UTC), relative to the other hours."""

_HOURS_SO_FAR = [sum(HOUR_WEIGHTS[: hour + 1]) / sum(HOUR_WEIGHTS) for hour in range(24)]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class User:
    """A user. Days are proleptic ordinals, as `date.toordinal()` returns them.

    Attributes:
        number: The number of the user, from 1, in the order of the sign-ups.
        name: The full name.
        place: City, region, country code and time zone.
        device: The event properties that describe the device and its place.
        genres: The favorite genres.
        artist: The favorite artist, with `name` and `country`.
        newsletter: Whether the user receives the newsletter.
        referred_by: The distinct id of the user who referred this one, or None.
        plays_per_day: The average number of songs played per day.
        engagement: The chance of activity on an average day, from 0 to 1.
        signed_up: The day of the sign-up.
        subscribed: The day on which the user starts to pay, or None.
        cancelled: The day on which the user stops paying, or None.
        left: The day from which the user is no longer active, except to cancel.
        paid_plan: The plan that the user pays for from `subscribed` to `cancelled`.
    """

    number: int
    name: str
    place: tuple[str, str, str, str]
    device: dict[str, Any]
    genres: list[str]
    artist: dict[str, str]
    newsletter: bool
    referred_by: str | None
    plays_per_day: float
    engagement: float
    signed_up: int
    subscribed: int | None
    cancelled: int | None
    left: int
    paid_plan: str

    @property
    def distinct_id(self) -> str:
        """The id that links the user's events and profile."""
        return f"user_{self.number}"

    def is_active_on(self, day: int) -> bool:
        """Return whether the user is active on a day."""
        if day in (self.signed_up, self.subscribed, self.cancelled):
            return True
        if not self.signed_up < day < self.left:
            return False
        chance = self.engagement * WEEKDAY_WEIGHTS[(day - 1) % 7]
        return _hash_to_unit(f"comes/{self.number}/{day}") < chance

    def first_visit_second(self, day: int) -> int:
        """Return the second of the day (UTC) at which the user's first visit starts."""
        unit = _hash_to_unit(f"visit/{self.number}/{day}")
        hour = bisect.bisect_right(_HOURS_SO_FAR, unit)
        # Not in the last minute of an hour: a sign-up takes time and must end on the same day.
        return hour * 3600 + int(_hash_to_unit(f"second/{self.number}/{day}") * 3540)

    def first_visit_time(self, day: int) -> datetime:
        """Return the time at which the user's first visit of a day starts, as naive UTC."""
        return datetime.combine(date.fromordinal(day), datetime.min.time()) + timedelta(
            seconds=self.first_visit_second(day)
        )

    def last_active_day(self, until: int) -> int:
        """Return the last day not after `until` on which the user was active."""
        day = until if self.left > until else max(self.left, self.cancelled or 0)
        day = min(day, until)
        while not self.is_active_on(day):
            day -= 1
        return day

    def plan_on(self, day: int) -> str:
        """Return the plan that the user is on at the end of a day."""
        if self.subscribed is None or day < self.subscribed:
            return "free"
        return self.paid_plan if self.cancelled is None or day < self.cancelled else "free"


def users_until(day: date) -> Iterator[User]:
    """Yield the users who have signed up by the end of `day`, in the order of their sign-ups."""
    return map(_make_user, range(1, _count_users((day - LAUNCH).days) + 1))


def pick(rng: random.Random, choices: Sequence[T]) -> T:
    """Return one of `choices`. Unlike `rng.choice`, it is the same in every version of Python."""
    return choices[int(rng.random() * len(choices))]


def _count_users(age: int) -> int:
    """Return the number of users when the product is `age` days old. Growth speeds up."""
    return 0 if age < 0 else 200 + age * 3 // 2 + age * age // 2000


def _hash_to_unit(key: str) -> float:
    """Return a pseudorandom number in [0, 1) that is always the same for the same key."""
    digest = hashlib.blake2b(key.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


@cache
def _make_user(number: int) -> User:
    rng = random.Random(f"user/{number}")  # noqa: S311 - for reproducible data, not for secrets
    age = bisect.bisect_left(range(1_000_000), number, key=_count_users)
    signed_up = LAUNCH.toordinal() + age
    place = pick(rng, product.PLACES)
    city, region, country, _ = place
    first_genre = int(rng.random() * len(product.GENRES))
    artist, artist_country = pick(rng, product.ARTISTS)
    engagement = 0.08 + 0.6 * rng.random() ** 2
    subscribed = signed_up + int(rng.random() * 60) if rng.random() < 0.3 else None
    stays = rng.random() < 0.7
    cancelled = None if subscribed is None or stays else subscribed + 30 + int(rng.random() * 300)
    # Most who leave do so in the first weeks, few after a year.
    left = signed_up + 3 + int(1500 * rng.random() ** 2)
    if subscribed is not None:
        left = max(left, subscribed + 1)
    return User(
        number=number,
        name=f"{pick(rng, product.FIRST_NAMES)} {pick(rng, product.LAST_NAMES)}",
        place=place,
        device={
            **pick(rng, product.DEVICES),
            "$city": city,
            "$region": region,
            "mp_country_code": country,
            "$device_id": f"{rng.getrandbits(128):032x}",
            "$user_id": f"user_{number}",
        },
        genres=[
            product.GENRES[(first_genre + step * 5) % len(product.GENRES)]
            for step in range(int(rng.random() * 4))
        ],
        artist={"name": artist, "country": artist_country},
        newsletter=rng.random() < 0.4,
        referred_by=f"user_{1 + int(rng.random() * (number - 1))}"
        if number > 1 and rng.random() < 0.2
        else None,
        plays_per_day=engagement * (4 + 8 * rng.random()),
        engagement=engagement,
        signed_up=signed_up,
        subscribed=subscribed,
        cancelled=cancelled,
        left=left,
        paid_plan=pick(rng, tuple(product.PLANS)),
    )
