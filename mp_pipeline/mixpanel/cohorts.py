"""The cohorts of a project."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp_pipeline.mixpanel.downloads import Download
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.lenient import DECODER, to_text
from mp_pipeline.mixpanel.lists import download_list, read_list
from mp_pipeline.mixpanel.transport import Request


@dataclass(frozen=True)
class Cohort:
    """A cohort.

    Attributes:
        id: Its id.
        name: Its name, which need not be unique.
    """

    id: int
    name: str


def download_cohorts(endpoint: Endpoint, directory: Path) -> Download:
    """Download the list of cohorts to `cohorts.jsonl.gz`, one cohort per line.

    Args:
        endpoint: The API that lists cohorts.
        directory: Where the file is created.

    Raises:
        MixpanelError: The list cannot be downloaded.
        RateLimitStoreError: Requests cannot be counted; none was sent.
        OSError: The file cannot be written.

    Source: https://docs.mixpanel.com/reference/cohorts-list
    """
    return download_list(endpoint, _request(endpoint), directory, "cohorts")


def list_cohorts(endpoint: Endpoint) -> list[Cohort]:
    """Return the cohorts. An entry whose id is not a whole number is left out.

    Args:
        endpoint: The API that lists cohorts.

    Raises:
        MixpanelError: The list cannot be downloaded.
        RateLimitStoreError: Requests cannot be counted; none was sent.
    """
    items, _ = read_list(endpoint, _request(endpoint))
    entries: list[Any] = [DECODER.decode(to_text(item)) for item in items]
    return [
        Cohort(int(entry["id"]), str(entry.get("name") or ""))
        for entry in entries
        if isinstance(entry, dict) and str(entry.get("id")).isdecimal()
    ]


def select_cohorts(cohorts: Sequence[Cohort], wanted: Sequence[str] | None) -> list[Cohort]:
    """Return the cohorts with certain names or ids, in their order.

    Args:
        cohorts: All cohorts.
        wanted: Names or ids; None for all cohorts.

    Raises:
        ValueError: There is no cohort with one of them. Names it, and the cohorts that there are.

    Example:
        >>> cohorts = [Cohort(7, "Paying"), Cohort(8, "Leaving")]
        >>> select_cohorts(cohorts, ["8"])
        [Cohort(id=8, name='Leaving')]
    """
    if wanted is None:
        return list(cohorts)
    for each in wanted:
        if not any(each in (cohort.name, str(cohort.id)) for cohort in cohorts):
            known = ", ".join(f"{cohort.name} ({cohort.id})" for cohort in cohorts) or "none"
            raise ValueError(
                f"the project has no cohort {each!r}, which MIXPANEL_COHORTS names. It has: {known}"
            )
    return [cohort for cohort in cohorts if {cohort.name, str(cohort.id)} & set(wanted)]


def _request(endpoint: Endpoint) -> Request:
    return Request("list of cohorts", "POST", endpoint.url, {"project_id": endpoint.project_id})
