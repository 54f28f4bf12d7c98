"""The group types of a project.

Mixpanel's reference does not describe the API that lists them, so its answers are read leniently.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.lenient import DECODER, to_text
from mp_pipeline.mixpanel.lists import read_list
from mp_pipeline.mixpanel.transport import Request

_log = logging.getLogger(__name__)
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class GroupType:
    """A group type, such as companies.

    Attributes:
        data_group_id: Its id: a 64-bit integer as text, which may be negative.
        key: The property of events and users that names the group: "company".
    """

    data_group_id: str
    key: str


def list_group_types(app: Endpoint) -> list[GroupType]:
    """Return the group types of a project.

    An entry without an id is left out, and the log says so.

    Args:
        app: The app API of the project.

    Raises:
        MixpanelError: They cannot be listed.
    """
    request = Request("list of group types", "GET", f"{app.url}/data-groups", {})
    items, _ = read_list(app, request)
    types = []
    for item in items:
        entry = DECODER.decode(to_text(item))
        group_type = _group_type(entry) if isinstance(entry, Mapping) else None
        if group_type is None:
            _log.warning("a group type without data_group_id is left out")
        else:
            types.append(group_type)
    return types


def short_names(types: Iterable[GroupType]) -> dict[GroupType, str]:
    """Return a unique name for each group type, of lower-case letters, digits and underscores.

    Keys that differ only in other characters, and keys without a letter or digit, get their id.

    Example:
        >>> short_names([GroupType("-12", "company_id"), GroupType("7", "$account")])
        {GroupType(data_group_id='-12', key='company_id'): 'company_id', \
GroupType(data_group_id='7', key='$account'): 'account'}
        >>> list(short_names([GroupType("1", "Team"), GroupType("-1", "team")]).values())
        ['team_1', 'team_minus_1']
    """
    names = {group_type: _to_name(group_type.key) for group_type in types}
    taken = list(names.values())
    return {
        group_type: name
        if name and taken.count(name) == 1
        else "_".join(filter(None, (name, _to_name(group_type.data_group_id))))
        for group_type, name in names.items()
    }


def _group_type(entry: Mapping[str, object]) -> GroupType | None:
    data_group_id = _first_text(entry, ("data_group_id", "id"))
    if data_group_id is None:
        return None
    key = _first_text(entry, ("property_name", "group_key", "display_name", "name"))
    return GroupType(data_group_id, key or data_group_id)


def _first_text(entry: Mapping[str, object], names: Sequence[str]) -> str | None:
    found = (entry.get(name) for name in names)  # the decoder leaves numbers as text
    return next((value for value in found if isinstance(value, str) and value.strip()), None)


def _to_name(text: str) -> str:
    positive = f"minus{text}" if text.startswith("-") else text
    return _NOT_IN_NAMES.sub("_", positive.lower()).strip("_")
