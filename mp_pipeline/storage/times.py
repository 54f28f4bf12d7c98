"""Dates and times as the database stores them: TIMESTAMP columns are naive and in UTC."""

from datetime import UTC, date, datetime


def to_utc(moment: datetime) -> datetime:
    """Return a time as naive UTC, as TIMESTAMP columns store it. A naive time is taken as UTC."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def as_utc(moment: datetime) -> datetime:
    """Return a time read from a TIMESTAMP column as timezone-aware UTC."""
    return moment.replace(tzinfo=UTC)


def parse_date(text: str, name: str) -> date:
    """Return a date from text in the format YYYY-MM-DD.

    Args:
        text: The text.
        name: What the error calls it.

    Raises:
        ValueError: The text is not such a date.

    Example:
        >>> parse_date("2024-01-15", "from_date")
        datetime.date(2024, 1, 15)
    """
    try:
        parsed = date.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {text!r}, not a date (YYYY-MM-DD)") from error
    if parsed.isoformat() != text:
        raise ValueError(f"{name} is {text!r}, not a date (YYYY-MM-DD)")
    return parsed
