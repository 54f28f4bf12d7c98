"""The assets that are snapshots: profiles, groups, cohorts, their members, annotations, Lexicon.

They differ in what they download. Each has a table, or several, replaced as a whole.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from mp_pipeline.assets.config import LoadConfig
from mp_pipeline.project import Project
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource
from mp_pipeline.settings import ExtraAsset, Settings
from mp_pipeline.snapshots import Part, Snapshot, snapshot_of_profiles
from mp_pipeline.storage import TableType


@dataclass(frozen=True)
class SnapshotKind:
    """An asset that is a snapshot.

    Attributes:
        type: What its tables contain. It is also the name of the asset.
        title: What it contains, as a noun in the plural.
        description: Its description in the UI.
        documentation: Mixpanel's documentation of what is downloaded.
        download: Downloads the snapshots, one for each table.
        may_shrink: Whether a snapshot may always lose any number of its rows: people edit it.
        extra: The name in ``MIXPANEL_EXTRA_ASSETS`` that switches it on; None if it is always on.
    """

    type: TableType
    title: str
    description: str
    documentation: str
    download: Callable[[MixpanelResource, Path], list[Snapshot]]
    extra: ExtraAsset | None = None
    may_shrink: bool = False


def _download_profiles(mixpanel: MixpanelResource, directory: Path) -> list[Snapshot]:
    return [snapshot_of_profiles(mixpanel.export_profiles(directory))]


def _download_groups(mixpanel: MixpanelResource, directory: Path) -> list[Snapshot]:
    from mp_pipeline.mixpanel.groups import GroupType, short_names

    named = [
        GroupType(data_group_id, key) for key, data_group_id in (mixpanel.groups or {}).items()
    ]
    with mixpanel.get_client() as client:
        types = named or client.list_group_types()
        if not types:
            raise dg.Failure(
                "Mixpanel lists no group types for the project. Remove groups from "
                "MIXPANEL_EXTRA_ASSETS or, if it has some, name them in MIXPANEL_GROUPS",
                allow_retries=False,
            )
        return [
            Snapshot(
                type="groups",
                parts=(
                    Part(
                        client.export_profiles(
                            directory=directory,
                            data_group_id=group_type.data_group_id,
                            name=f"groups_{name}",
                            max_missing_fraction=mixpanel.max_missing_fraction,
                        ),
                        {"data_group_id": group_type.data_group_id, "group_key": group_type.key},
                    ),
                ),
                source=mixpanel.source,
                suffix=name,
            )
            for group_type, name in short_names(types).items()
        ]


def _download_cohorts(mixpanel: MixpanelResource, directory: Path) -> list[Snapshot]:
    with mixpanel.get_client() as client:
        parts = (Part(client.export_cohorts(directory=directory)),)
    return [Snapshot(type="cohorts", parts=parts, source=mixpanel.source)]


def _download_cohort_members(mixpanel: MixpanelResource, directory: Path) -> list[Snapshot]:
    from mp_pipeline.mixpanel.cohorts import select_cohorts

    wanted = mixpanel.cohorts or None
    with mixpanel.get_client() as client:
        parts = tuple(
            Part(
                client.export_profiles(
                    directory=directory,
                    cohort_id=cohort.id,
                    properties=["$distinct_id"],  # the ids alone: members have no other columns
                    name=f"cohort_members_{cohort.id}",
                    max_missing_fraction=mixpanel.max_missing_fraction,
                ),
                {"cohort_id": str(cohort.id)},
            )
            for cohort in select_cohorts(client.list_cohorts(), wanted)
        )
    return [
        Snapshot(
            type="cohort_members",
            parts=parts,
            source=mixpanel.source,
            where=wanted and f"cohort in {json.dumps(wanted, ensure_ascii=False)}",
        )
    ]


def _download_annotations(mixpanel: MixpanelResource, directory: Path) -> list[Snapshot]:
    with mixpanel.get_client() as client:
        parts = (Part(client.export_annotations(directory=directory)),)
    return [
        Snapshot(
            type="annotations",
            parts=parts,
            source=mixpanel.source,
            wall_clock_zone=mixpanel.timezone,
        )
    ]


def _download_lexicon(mixpanel: MixpanelResource, directory: Path) -> list[Snapshot]:
    with mixpanel.get_client() as client:
        parts = (Part(client.export_schemas(directory=directory)),)
    return [Snapshot(type="lexicon", parts=parts, source=mixpanel.source)]


PROFILES = SnapshotKind(
    type="profiles",
    title="user profiles",
    description="""\
User profiles of the Mixpanel project as they are now, in the table `profiles`.

Materializing it again replaces the snapshot. Join it with `events` on `distinct_id`.
""",
    documentation="https://docs.mixpanel.com/reference/engage-query",
    download=_download_profiles,
)

GROUPS = SnapshotKind(
    type="groups",
    title="group profiles",
    description="""\
Group profiles of the Mixpanel project as they are now: one table per group type, such as
`groups_company`, whose `distinct_id` is the group that the property `group_key` of events names.

Materializing it again replaces the snapshots. A table is kept when its group type is gone.
""",
    documentation="https://docs.mixpanel.com/reference/engage-query",
    download=_download_groups,
    extra="groups",
)

COHORTS = SnapshotKind(
    type="cohorts",
    title="cohorts",
    description="""\
Cohorts of the Mixpanel project as they are now, with their sizes, in the table `cohorts`.

Materializing it again replaces the snapshot. `cohort_members` has their members.
""",
    documentation="https://docs.mixpanel.com/reference/cohorts-list",
    download=_download_cohorts,
    extra="cohorts",
    may_shrink=True,
)

COHORT_MEMBERS = SnapshotKind(
    type="cohort_members",
    title="members of cohorts",
    description="""\
Members of the cohorts as they are now, in the table `cohort_members`: one row per cohort and user.

Each cohort costs one of Mixpanel's requests per hour; `MIXPANEL_COHORTS` names those to load.
Materializing it again replaces the snapshot. Join it with `events` on `distinct_id`, and with
`cohorts` on `cohort_id = id`.
""",
    documentation="https://docs.mixpanel.com/reference/engage-query",
    download=_download_cohort_members,
    extra="cohorts",
    may_shrink=True,
)

ANNOTATIONS = SnapshotKind(
    type="annotations",
    title="annotations",
    description="""\
Annotations of the Mixpanel project as they are now, in the table `annotations`.

`date` is the day in the project's time zone, and `time` is UTC. Materializing it again replaces the
snapshot.
""",
    documentation="https://docs.mixpanel.com/reference/list-all-annotations-for-project",
    download=_download_annotations,
    extra="annotations",
    may_shrink=True,
)

LEXICON = SnapshotKind(
    type="lexicon",
    title="schemas of the Lexicon",
    description="""\
Schemas of the Mixpanel project's Lexicon as they are now, in the table `lexicon`: what events, user
profiles and their properties mean.

Mixpanel lists only what someone described, hid or tagged. Materializing it again replaces the
snapshot. When days are typed next, its descriptions become comments on typed tables and columns.
""",
    documentation="https://docs.mixpanel.com/reference/list-all-schemas-for-project",
    download=_download_lexicon,
    extra="lexicon",
    may_shrink=True,
)

_KINDS = (PROFILES, GROUPS, COHORTS, COHORT_MEMBERS, ANNOTATIONS, LEXICON)


def snapshot_kinds(settings: Settings) -> list[SnapshotKind]:
    """Return the snapshots that the settings switch on.

    Example:
        >>> settings = Settings(mixpanel_extra_assets=("cohorts",))
        >>> [kind.type for kind in snapshot_kinds(settings)]
        ['profiles', 'cohorts', 'cohort_members']
    """
    return [
        kind
        for kind in _KINDS
        if kind.extra is None or kind.extra in settings.mixpanel_extra_assets
    ]


def snapshot_asset(project: Project, kind: SnapshotKind) -> dg.AssetsDefinition:
    """Return an asset that is a snapshot.

    Args:
        project: The project.
        kind: What it contains.
    """
    mixpanel_key, duckdb_key = project.name("mixpanel"), project.name("duckdb")

    @dg.asset(
        key=project.asset_key(kind.type),
        io_manager_key=project.name("mixpanel_duckdb"),
        kinds={"mixpanel", "duckdb"},
        group_name=project.group,
        description=kind.description,
        metadata={"mixpanel_documentation": dg.MetadataValue.url(kind.documentation)},
        freshness_policy=project.deadline.freshness_policy,
        required_resource_keys={mixpanel_key, duckdb_key},
    )
    def snapshot(context: dg.AssetExecutionContext, config: LoadConfig) -> list[Snapshot]:
        mixpanel: MixpanelResource = getattr(context.resources, mixpanel_key)
        duckdb: MixpanelDuckDBResource = getattr(context.resources, duckdb_key)
        try:
            snapshots = kind.download(mixpanel, duckdb.download_directory(context.run.run_id))
        except BaseException:  # one of several downloads may be complete
            duckdb.delete_downloads(context.run.run_id)
            raise
        for download in (each for snapshot in snapshots for each in snapshot.profiles):
            if not download.complete:
                context.log.warning(
                    f"{download.paths[0].name}: Mixpanel announced {download.total} profiles and "
                    f"sent {download.distinct}: profiles changed while the pages were read"
                )
        may_shrink = kind.may_shrink or config.allow_shrink
        return [replace(each, may_shrink=may_shrink) for each in snapshots]

    return snapshot
