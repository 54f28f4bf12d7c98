"""The Lexicon of the sample project: what some of its events and properties mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class _Schema:
    """What someone wrote about an event, or about the user profiles.

    Attributes:
        name: The event; `$user` for the user profiles.
        description: What it means, empty if nobody wrote it.
        properties: The type and the meaning of its properties.
        display_name: The name that Mixpanel shows instead; empty for none.
        entity: `event` or `profile`.
    """

    name: str
    description: str
    properties: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    display_name: str = ""
    entity: str = "event"


_SCHEMAS = (
    _Schema(
        "Song Played",
        "A user played a song, or a part of it.",
        {
            "song": ("string", "Title of the song."),
            "artist": ("object", "Name and country of the artist."),
            "genres": ("array", "Genres of the song, the main one first."),
            "duration": ("integer", "Length of the song in seconds."),
            "seconds_played": ("integer", "How long the user listened, in seconds."),
            "completed": ("boolean", "Whether the song was played to its end."),
            "playlist": ("object", "Position in the playlist, in shuffle mode."),
        },
        display_name="Song played",
    ),
    _Schema(
        "Search",
        "A user searched for songs.",
        {
            "query": ("string", "What the user typed."),
            "results": ("integer", "Number of songs found."),
        },
    ),
    _Schema(
        "Purchase",
        "A user bought something in the shop.",
        {
            "amount": ("number", "Price of all items together."),
            "currency": ("string", "Currency of the amount (ISO 4217)."),
            "coupon": ("string", ""),
        },
    ),
    _Schema("Page View", "", display_name="Page viewed"),
    _Schema("$user", "", {"plan": ("string", "The user's current plan.")}, entity="profile"),
)


def list_schemas() -> list[dict[str, Any]]:
    """Return the schemas as Mixpanel lists them. Not all events have one.

    Example:
        >>> [schema["name"] for schema in list_schemas()]
        ['Song Played', 'Search', 'Purchase', 'Page View', '$user']
        >>> list_schemas()[1]["schemaJson"]["properties"]["results"]
        {'type': 'integer', 'description': 'Number of songs found.'}
    """
    return [
        {
            "entityType": schema.entity,
            "name": schema.name,
            "schemaJson": {
                "$schema": "http://json-schema.org/draft-07/schema",
                **_given(description=schema.description),
                "additionalProperties": True,
                "metadata": {"com.mixpanel": _given(displayName=schema.display_name)},
                "properties": {
                    prop: {"type": type_, **_given(description=description)}
                    for prop, (type_, description) in schema.properties.items()
                },
            },
        }
        for schema in _SCHEMAS
    ]


def _given(**texts: str) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}
