"""Where Mixpanel stores a project's data, and the URLs that follow from it."""

from typing import Literal, get_args
from urllib.parse import urlsplit, urlunsplit

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


def app_url(query_url: str) -> str:
    """Return the base URL of the app API, beside that of the query API.

    Args:
        query_url: The base URL of the query API.

    Example:
        >>> app_url("https://eu.mixpanel.com/api/query")
        'https://eu.mixpanel.com/api/app'
    """
    parts = urlsplit(query_url)
    return urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/app"))


def base_url(region: Region, defaults: dict[Region, str], override: str | None, name: str) -> str:
    """Return a base URL without a trailing slash.

    Args:
        region: The region.
        defaults: The base URLs of the regions.
        override: Replaces the region's base URL; None to use it.
        name: The name of `override` in error messages.

    Raises:
        ValueError: The region is unknown, or `override` is not a plain http or https URL. One that
            contains credentials is not quoted.
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
