"""What Mixpanel states about its rate limits in the headers of a refusal.

Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import http_sf

_LONGEST_SECONDS = 7 * 24 * 60 * 60
"""Longer periods are ignored: what is learned expires after this time."""


@dataclass(frozen=True)
class Quota:
    """A number of requests that Mixpanel allows a project in a period.

    Attributes:
        requests: The number of requests.
        seconds: The length of the period.
    """

    requests: int
    seconds: int


def parse_quotas(header: str | None) -> tuple[Quota, ...]:
    """Parse a header `RateLimit-Policy`. Of two policies for the same period, the smaller counts.

    Args:
        header: The header's value; None if it is missing.

    Returns:
        The quotas; empty if the header is missing or malformed. Policies that do not count
        requests, and such without a period, are left out.

    Example:
        >>> parse_quotas('"project";q=60;w=3600, "burst";q=3;w=1, "size";q=9;qu="content-bytes"')
        (Quota(requests=60, seconds=3600), Quota(requests=3, seconds=1))
    """
    quotas: dict[int, int] = {}
    for policy in _parse_items(header):
        requests, seconds = _number(policy, "q"), _number(policy, "w")
        counts_requests = policy.get("qu", "requests") == "requests"
        if counts_requests and requests and seconds and seconds <= _LONGEST_SECONDS:
            quotas[seconds] = min(requests, quotas.get(seconds, requests))
    return tuple(Quota(requests, seconds) for seconds, requests in quotas.items())


def parse_requests_left(header: str | None) -> tuple[int | None, int | None]:
    """Parse a header `RateLimit`.

    Args:
        header: The header's value; None if it is missing.

    Returns:
        The number of requests left, and the seconds until there are more if none is left. Each is
        None if the header does not say.

    Example:
        >>> parse_requests_left('"project";r=0;t=1200')
        (0, 1200)
    """
    items = list(_parse_items(header))
    left = [each for item in items if (each := _number(item, "r")) is not None]
    waits = [wait for item in items if _number(item, "r") == 0 and (wait := _number(item, "t"))]
    return min(left, default=None), max(waits, default=None)


def _parse_items(header: str | None) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of each item of a list (RFC 9651)."""
    try:
        items: Any = http_sf.parse((header or "").encode(), tltype="list")
    except http_sf.StructuredFieldError:
        return
    for _, parameters in items:
        yield parameters


def _number(parameters: Mapping[str, Any], name: str) -> int | None:
    """Return a parameter that is a whole number of at least 0."""
    value = parameters.get(name)
    return value if type(value) is int and value >= 0 else None
