"""The users of the sample product: who they are, when they come, what they pay.

Everything about a user follows from the user's number, and whether a user comes on a day from the
number and the day, so that any day can be made without the days before it.
"""

import bisect
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

from mp_pipeline.sample import catalogue

LAUNCH = date(2023, 1, 1)
"""The product's first day: nothing happened before it."""

WEEKDAYS = (0.90, 0.92, 0.95, 0.98, 1.10, 1.18, 0.97)
"""How busy each day of the week is, Monday first; 1 on average."""

HOURS = (
    30,
    20,
    13,
    10,
    10,
    16,
    34,
    58,
    66,
    54,
    48,
    50,
    58,
    56,
    50,
    52,
    60,
    74,
    88,
    96,
    94,
    80,
    60,
    42,
)
"""How busy each hour of the day (UTC) is, relative to the other hours."""

_HOURS_SO_FAR = [sum(HOURS[: hour + 1]) / sum(HOURS) for hour in range(24)]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class User:
    """A user; days are proleptic ordinals, as `date.toordinal()` gives them."""

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
        """The id that events and the profile have in common."""
        return f"user_{self.number}"

    def comes_on(self, day: int) -> bool:
        """Whether the user is active on a day."""
        if day in (self.signed_up, self.subscribed, self.cancelled):
            return True
        if not self.signed_up < day < self.left:
            return False
        chance = self.engagement * WEEKDAYS[(day - 1) % 7]
        return _unit(f"comes/{self.number}/{day}") < chance

    def visit_second(self, day: int) -> int:
        """Second of the day (UTC) at which the user's first visit of a day begins."""
        unit = _unit(f"visit/{self.number}/{day}")
        hour = bisect.bisect_right(_HOURS_SO_FAR, unit)
        # Not in the last minute of an hour: a sign-up takes a moment, and has to fit into the day.
        return hour * 3600 + int(_unit(f"second/{self.number}/{day}") * 3540)

    def visit_time(self, day: int) -> datetime:
        """When the user's first visit of a day begins, in UTC without an offset."""
        return datetime.combine(date.fromordinal(day), datetime.min.time()) + timedelta(
            seconds=self.visit_second(day)
        )

    def last_day(self, until: int) -> int:
        """Find the last day not after `until` on which the user was active."""
        day = until if self.left > until else max(self.left, self.cancelled or 0)
        day = min(day, until)
        while not self.comes_on(day):
            day -= 1
        return day

    def plan_on(self, day: int) -> str:
        """Name the plan that the user is on at the end of a day."""
        if self.subscribed is None or day < self.subscribed:
            return "free"
        return self.paid_plan if self.cancelled is None or day < self.cancelled else "free"


def users_until(day: date) -> Iterator[User]:
    """Yield everyone who has signed up by the end of `day`, in the order in which they did."""
    return map(_user, range(1, _user_count((day - LAUNCH).days) + 1))


def pick(rng: random.Random, choices: Sequence[T]) -> T:
    """Pick one of `choices`; unlike `rng.choice`, the same one in every version of Python."""
    return choices[int(rng.random() * len(choices))]


def _user_count(age: int) -> int:
    """Count the users when the product is `age` days old: more come every month."""
    return 0 if age < 0 else 200 + age * 3 // 2 + age * age // 2000


def _unit(key: str) -> float:
    """Turn a key into a number of [0, 1) that looks random and is always the same."""
    digest = hashlib.blake2b(key.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


@cache
def _user(number: int) -> User:
    rng = random.Random(f"user/{number}")  # noqa: S311 - reproducible, not secret
    age = bisect.bisect_left(range(1_000_000), number, key=_user_count)
    signed_up = LAUNCH.toordinal() + age
    place = pick(rng, catalogue.PLACES)
    city, region, country, _ = place
    first_genre = int(rng.random() * len(catalogue.GENRES))
    artist, artist_country = pick(rng, catalogue.ARTISTS)
    engagement = 0.08 + 0.6 * rng.random() ** 2
    subscribed = signed_up + int(rng.random() * 60) if rng.random() < 0.3 else None
    stays = rng.random() < 0.7
    cancelled = None if subscribed is None or stays else subscribed + 30 + int(rng.random() * 300)
    # Many leave in the first weeks, few after a year.
    left = signed_up + 3 + int(1500 * rng.random() ** 2)
    if subscribed is not None:
        left = max(left, subscribed + 1)
    return User(
        number=number,
        name=f"{pick(rng, catalogue.FIRST_NAMES)} {pick(rng, catalogue.LAST_NAMES)}",
        place=place,
        device={
            **pick(rng, catalogue.DEVICES),
            "$city": city,
            "$region": region,
            "mp_country_code": country,
            "$device_id": f"{rng.getrandbits(128):032x}",
            "$user_id": f"user_{number}",
        },
        genres=[
            catalogue.GENRES[(first_genre + step * 5) % len(catalogue.GENRES)]
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
        paid_plan=pick(rng, tuple(catalogue.PLANS)),
    )
