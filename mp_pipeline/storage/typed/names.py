"""Names of typed tables and their columns.

They follow the rules of Mixpanel's own exports to warehouses: lower case, with ``_`` for
characters other than letters, digits and underscores, and ``mp_`` for a leading ``$``.
"""

import re
from collections.abc import Collection

_DATASET = "events"


def schema_name(dataset: str) -> str:
    """Return the schema of a dataset's typed tables.

    Example:
        >>> [schema_name(dataset) for dataset in ("events", "shop_events", "clicks")]
        ['event', 'shop_event', 'clicks_event']
    """
    name = dataset.lower()
    return name[:-1] if name == _DATASET or name.endswith(f"_{_DATASET}") else f"{name}_event"


def lexicon_name(dataset: str) -> str:
    """Return the table of the Lexicon that describes a dataset.

    Example:
        >>> [lexicon_name(dataset) for dataset in ("events", "shop_events", "clicks")]
        ['lexicon', 'shop_lexicon', 'clicks_lexicon']
    """
    return f"{schema_name(dataset).removesuffix('event')}lexicon"


def free_name(original: str, taken: Collection[str]) -> str:
    """Return the name of the table of an event, or of the column of a property.

    Args:
        original: The name in Mixpanel, any text.
        taken: The names that others have. A number makes the name different from them.

    Example:
        >>> free_name("Song Played", []), free_name("$city", []), free_name("1st/2nd", [])
        ('song_played', 'mp_city', '_1st_2nd')
        >>> free_name("song-played", ["song_played"])
        'song_played_1'
    """
    text = f"mp_{original[1:]}" if original.startswith("$") else original
    name = re.sub(r"\W+", "_", text.lower()) or "_"
    if name[0].isdigit():
        name = f"_{name}"
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def pointer(prop: str) -> str:
    """Return the JSON pointer (RFC 6901) of a property.

    Example:
        >>> pointer("a/b~c")
        '/a~1b~0c'
    """
    return "/" + prop.replace("~", "~0").replace("/", "~1")
