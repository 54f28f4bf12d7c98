"""Snapshots: downloads that together replace one table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mp_pipeline.mixpanel import Download, ProfilesDownload
from mp_pipeline.storage import LabeledFile, TableType


@dataclass(frozen=True)
class Part:
    """A download of a snapshot, and the columns that have one value for all of its lines.

    Attributes:
        download: The download.
        labels: Names and values of the columns, such as the ``cohort_id`` of cohort members.
    """

    download: Download
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a table contains from now on.

    Attributes:
        type: What the rows are.
        parts: The downloads.
        source: What the caller calls the project.
        suffix: What follows the asset's name in the table's name; empty for the asset's own table.
        where: Expression that filtered the rows; None for none.
        properties: Names of the properties that were requested; None for all.
        may_shrink: Whether any number of the stored rows may be gone.
        wall_clock_zone: Time zone whose wall clock the times show; ``UTC`` if they are UTC.
    """

    type: TableType
    parts: tuple[Part, ...]
    source: str | None
    suffix: str = ""
    where: str | None = None
    properties: tuple[str, ...] | None = None
    may_shrink: bool = False
    wall_clock_zone: str = "UTC"

    @property
    def files(self) -> list[LabeledFile]:
        """The files with their labels."""
        return [
            LabeledFile(path, part.labels) for part in self.parts for path in part.download.paths
        ]

    @property
    def lines(self) -> int:
        """The number of lines of all files."""
        return sum(part.download.lines for part in self.parts)

    @property
    def profiles(self) -> list[ProfilesDownload]:
        """The downloads that consist of pages of profiles."""
        return [part.download for part in self.parts if isinstance(part.download, ProfilesDownload)]

    def verify(self) -> None:
        """Check that the files are as they were downloaded.

        Raises:
            DamagedDownloadError: A file is damaged or missing.
        """
        for part in self.parts:
            part.download.verify()

    def delete(self) -> None:
        """Delete the files that still exist."""
        for part in self.parts:
            part.download.delete()


def snapshot_of_profiles(download: ProfilesDownload) -> Snapshot:
    """Return the snapshot of user profiles that a download is."""
    return Snapshot(
        type="profiles",
        parts=(Part(download),),
        source=download.source,
        where=download.where,
        properties=download.properties,
    )
