"""The companies, cohorts and annotations of the sample project, generated from the day alone."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from mp_pipeline.sample import product
from mp_pipeline.sample.data import profiles_as_of
from mp_pipeline.sample.users import LAUNCH, pick

COMPANY = {
    "data_group_id": "-6291034705516742039",
    "display_name": "Company",
    "property_name": "company",
}
"""The only group type, as Mixpanel lists it."""

COMPANIES = 40

_COMPANY_NAMES = ("Cadence", "Forte", "Harmony", "Legato", "Octave", "Rondo", "Tempo", "Vibrato")
_COMPANY_KINDS = ("Cafes", "Fitness", "Hotels", "Retail", "Studios")
_SIZES = (12, 40, 150, 600)


@dataclass(frozen=True)
class Cohort:
    """A cohort of users.

    Attributes:
        id: Its id.
        name: Its name.
        description: Its description.
        created: When it was created (UTC).
        contains: Says whether a user with certain profile properties is a member.
    """

    id: int
    name: str
    description: str
    created: datetime
    contains: Callable[[Mapping[str, Any]], bool]


COHORTS = (
    Cohort(
        1001,
        "Paying users",
        "Users on a paid plan.",
        datetime(2023, 1, 16, 9, 30),
        lambda properties: bool(properties["plan"] != "free"),
    ),
    Cohort(
        1002,
        "Newsletter readers",
        "Users who receive the newsletter.",
        datetime(2023, 3, 2, 14, 5),
        lambda properties: bool(properties["newsletter"]),
    ),
    Cohort(
        1003,
        "Power listeners",
        "Users who played at least 500 songs.",
        datetime(2023, 7, 20, 8, 0),
        lambda properties: bool(properties["plays"] >= 500),
    ),
)

_ANNOTATIONS = (
    (101, "2023-01-01 00:00:00", "Launch", "Ada", "Berger", ("release",)),
    (102, "2023-11-24 08:00:00", "Black Friday campaign starts", "Luis", "Costa", ("marketing",)),
    (103, "2024-02-29 10:30:00", "New player", "Ada", "Berger", ("release", "player")),
    (104, "2024-03-05 17:45:00", "Searches failed for an hour", "Mina", "Sato", ()),
)
_TAG_IDS = {"marketing": 1, "player": 2, "release": 3}


def companies_as_of(day: date) -> Iterator[dict[str, Any]]:
    """Yield the profiles of the companies as of the end of one UTC day. They are always the same.

    Args:
        day: The day. Before the product's launch (2023-01-01) there are no companies.

    Yields:
        `{"$distinct_id": name, "$properties": {...}}`.

    Example:
        >>> from datetime import date
        >>> companies = list(companies_as_of(date(2024, 1, 15)))
        >>> len(companies), companies[0]["$distinct_id"]
        (40, 'cadence-cafes')
    """
    if day < LAUNCH:
        return
    for number in range(COMPANIES):
        name = _COMPANY_NAMES[number // len(_COMPANY_KINDS)]
        kind = _COMPANY_KINDS[number % len(_COMPANY_KINDS)]
        rng = random.Random(f"company/{number}")  # noqa: S311 - reproducible data, no secrets
        city, _, country, _ = pick(rng, product.PLACES)
        seen = datetime(day.year, day.month, day.day) + timedelta(seconds=int(rng.random() * 86400))
        yield {
            "$distinct_id": f"{name}-{kind}".lower(),
            "$properties": {
                "$name": f"{name} {kind}",
                "$last_seen": seen.isoformat(),
                "industry": kind.lower(),
                "employees": pick(rng, _SIZES),
                "city": city,
                "country": country,
                "plan": pick(rng, tuple(product.PLANS)),
                "contact": f"user_{1 + int(rng.random() * 200)}",
            },
        }


def cohort_members_as_of(cohort: Cohort, day: date) -> Iterator[dict[str, Any]]:
    """Yield the profiles of a cohort's members as of the end of one UTC day.

    Example:
        >>> from datetime import date
        >>> next(cohort_members_as_of(COHORTS[0], date(2024, 1, 15)))["$properties"]["plan"]
        'premium'
    """
    return (each for each in profiles_as_of(day) if cohort.contains(each["$properties"]))


def list_cohorts(day: date) -> list[dict[str, Any]]:
    """Return the cohorts as of the end of one UTC day, as Mixpanel lists them."""
    return [
        {
            "id": cohort.id,
            "name": cohort.name,
            "description": cohort.description,
            "count": sum(1 for _ in cohort_members_as_of(cohort, day)),
            "is_visible": 1,
            "created": str(cohort.created),
        }
        for cohort in COHORTS
    ]


def list_annotations() -> list[dict[str, Any]]:
    """Return the annotations as Mixpanel lists them. Their dates are in the project's time zone."""
    return [
        {
            "id": id_,
            "date": day,
            "description": description,
            "user": {"id": len(first), "first_name": first, "last_name": last},
            "tags": [{"id": _TAG_IDS[tag], "name": tag} for tag in tags],
        }
        for id_, day, description, first, last, tags in _ANNOTATIONS
    ]
