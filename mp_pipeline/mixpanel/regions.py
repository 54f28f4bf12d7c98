"""Where Mixpanel keeps a project's data, and the URLs that follow from it."""

from typing import Literal, get_args
from urllib.parse import urlsplit

Region = Literal["us", "eu", "in"]
"""Mixpanel's data residencies: United States, European Union, India."""

EXPORT_URLS: dict[Region, str] = {
    "us": "https://data.mixpanel.com/api/2.0",
    "eu": "https://data-eu.mixpanel.com/api/2.0",
    "in": "https://data-in.mixpanel.com/api/2.0",
}
QUERY_URLS: dict[Region, str] = {
    "us": "https://mixpanel.com/api/query",
    "eu": "https://eu.mixpanel.com/api/query",
    "in": "https://in.mixpanel.com/api/query",
}


def base_url(region: Region, defaults: dict[Region, str], override: str | None, name: str) -> str:
    """Return the base URL without a trailing slash: `override`, or the one of the region.

    Raises:
        ValueError: The region is unknown, or `override` (called `name` in the message) is no
            plain http(s) URL. One with a password in it is refused unseen.
    """
    if region not in get_args(Region):
        raise ValueError(f"region must be one of {', '.join(get_args(Region))}, not {region!r}")
    if override is None:
        return defaults[region]
    parts = urlsplit(override)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{name} must be a plain URL, without credentials and without a query")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name} must be an http or https URL, not {override!r}")
    return override.rstrip("/")
