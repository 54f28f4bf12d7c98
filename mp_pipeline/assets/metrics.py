"""The assets made of events and profiles: identities, sessions, daily metrics, profile history."""

import dagster as dg

from mp_pipeline.assets.events import backfill_policy
from mp_pipeline.io_manager import table_name
from mp_pipeline.metric_ranges import DailyMetricsRange, SessionsRange
from mp_pipeline.partitions import requested_days
from mp_pipeline.project import Project
from mp_pipeline.resources import MixpanelDuckDBResource

_LISTED_USERS = 20

_IDENTITIES = """\
Which IDs are one user: `identities` has each `distinct_id` with its `user_id`, and `user_events` is
`events` with that column.

IDs are linked by what events hold: `$device_id` and `$user_id`, `$distinct_id_before_identity`,
`$identify`, `$create_alias` and `$merge`. Only days that were loaded since are read again.
"""

_SESSIONS = """\
Sessions of users, in the view `sessions`: a session ends when its user is inactive for 30 minutes
(`MP_PIPELINE_SESSION_MINUTES`), and at midnight in the project's time zone.
"""

_DAILY_METRICS = """\
Metrics per day, as Mixpanel counts them. `daily_metrics` has events, users active in 1, 7 and 30
days, new and returning users, sessions and their median length; `daily_events_by_name` has the
events and users of each event.
"""

_PROFILE_HISTORY = """\
All versions of the user profiles, in the view `profile_history`; `FROM profiles_at(TIMESTAMP
'2024-03-10')` returns the profiles of a moment.

It is made of each snapshot: a profile whose properties changed gets a new version, and one that
vanished ends.
"""


def metric_assets(
    project: Project, events: dg.AssetsDefinition, profiles: dg.AssetsDefinition
) -> dict[str, dg.AssetsDefinition]:
    """Return the assets with metrics of a project, by name.

    Args:
        project: The project.
        events: The asset with the raw events.
        profiles: The asset with the user profiles.
    """
    identities = _identities(project, events)
    sessions = _sessions(project, events, identities)
    return {
        "identities": identities,
        "sessions": sessions,
        "daily_metrics": _daily_metrics(project, events, identities, sessions),
        "profile_history": _profile_history(project, profiles),
    }


def _identities(project: Project, events: dg.AssetsDefinition) -> dg.AssetsDefinition:
    duckdb_key = project.name("duckdb")

    @dg.asset(
        key=project.asset_key("identities"),
        deps=[events],
        kinds={"duckdb"},
        group_name=project.group,
        description=_IDENTITIES,
        # Days of events may be missing.
        automation_condition=dg.AutomationCondition.eager().without(
            ~dg.AutomationCondition.any_deps_missing()
        ),
        required_resource_keys={duckdb_key},
    )
    def identities(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        duckdb: MixpanelDuckDBResource = getattr(context.resources, duckdb_key)
        with duckdb.get_engine() as engine:
            report = engine.update_identities(table_name(events.key))
        if report.large_users:
            context.log.warning(
                f"{len(report.large_users):,} users have more than 500 IDs: an ID that several "
                "people share may link them"
            )
        return dg.MaterializeResult(
            metadata={
                "users_with_several_ids": report.users,
                "linked_ids": report.ids,
                "changed_ids": report.changed,
                "days_read": len(report.days),
                "users_with_over_500_ids": len(report.large_users),
                "largest_users": [
                    f"{user_id}: {ids:,} IDs" for user_id, ids in report.large_users[:_LISTED_USERS]
                ],
            }
        )

    return identities


def _sessions(
    project: Project, events: dg.AssetsDefinition, identities: dg.AssetsDefinition
) -> dg.AssetsDefinition:
    timeout = project.settings.session_timeout
    output = _day_output(project, "sessions", _SESSIONS, identities, f"timeout {timeout}")

    @dg.multi_asset(
        name=project.name("sessions"),
        outs={"sessions": output},
        deps=[events, identities],
        partitions_def=project.partitions,
        backfill_policy=backfill_policy(project),
        group_name=project.group,
    )
    def sessions(context: dg.AssetExecutionContext) -> SessionsRange:
        return SessionsRange(
            dataset=table_name(events.key),
            days=requested_days(context, project.partitions),
            timeout=timeout,
        )

    return sessions


def _daily_metrics(
    project: Project,
    events: dg.AssetsDefinition,
    identities: dg.AssetsDefinition,
    sessions: dg.AssetsDefinition,
) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=project.name("daily_metrics"),
        outs={"daily_metrics": _day_output(project, "daily_metrics", _DAILY_METRICS, identities)},
        deps=[identities, sessions],
        partitions_def=project.partitions,
        backfill_policy=backfill_policy(project),
        group_name=project.group,
    )
    def daily_metrics(context: dg.AssetExecutionContext) -> DailyMetricsRange:
        return DailyMetricsRange(
            dataset=table_name(events.key), days=requested_days(context, project.partitions)
        )

    return daily_metrics


def _profile_history(project: Project, profiles: dg.AssetsDefinition) -> dg.AssetsDefinition:
    duckdb_key = project.name("duckdb")
    settings = project.settings

    @dg.asset(
        key=project.asset_key("profile_history"),
        deps=[profiles],
        kinds={"duckdb"},
        group_name=project.group,
        description=_PROFILE_HISTORY,
        automation_condition=dg.AutomationCondition.eager(),
        required_resource_keys={duckdb_key},
    )
    def profile_history(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        duckdb: MixpanelDuckDBResource = getattr(context.resources, duckdb_key)
        with duckdb.get_engine() as engine:
            report = engine.update_profile_history(
                table_name(profiles.key),
                track_last_seen=settings.mp_pipeline_track_last_seen,
                min_kept_fraction=settings.mp_pipeline_min_kept_fraction,
            )
        return dg.MaterializeResult(
            metadata={
                "profiles": report.profiles,
                "appeared": report.appeared,
                "changed": report.changed,
                "vanished": report.vanished,
                "taken_at": dg.MetadataValue.timestamp(report.taken_at),
            }
        )

    return profile_history


def _day_output(
    project: Project,
    name: str,
    description: str,
    identities: dg.AssetsDefinition,
    code_version: str | None = None,
) -> dg.AssetOut:
    """Return the output of an asset that is made for each loaded day.

    New identities do not request all days again: a check names the days that they change. Another
    code version does.
    """
    has_other_version = (
        dg.AutomationCondition.code_version_changed() & ~dg.AutomationCondition.missing()
    )
    return dg.AssetOut(
        key=project.asset_key(name),
        io_manager_key=project.name("mixpanel_duckdb"),
        kinds={"duckdb"},
        description=description,
        code_version=code_version,
        automation_condition=dg.AutomationCondition.eager()
        .without(dg.AutomationCondition.in_latest_time_window())
        .ignore(dg.AssetSelection.assets(identities))
        .replace("newly_missing", dg.AutomationCondition.newly_missing() | has_other_version),
    )
