"""Checks of tables: every line is accounted for, and the schema is the data model's.

They judge the tables that their run wrote, and all tables when they run by themselves. They look at
what is in the database now, not at what a load reported.
"""

from collections.abc import Callable, Mapping, Sequence

import dagster as dg

from mp_pipeline.checks.common import database_check, nothing_loaded, run_days
from mp_pipeline.days import format_names
from mp_pipeline.io_manager import table_name
from mp_pipeline.metadata_tables import metadata_table
from mp_pipeline.project import Project
from mp_pipeline.storage import StorageEngine, TableType, day_table_name

FindProblems = Callable[[StorageEngine, Sequence[str]], Mapping[str, list[str]]]
"""Returns the problems of each table, none for an intact one."""


def row_count(
    project: Project, asset: dg.AssetsDefinition, table_type: TableType
) -> dg.AssetChecksDefinition:
    """Return the check that every line is accounted for."""
    return _table_check(
        project,
        asset,
        table_type,
        "row_count",
        "The table, `_metadata` and the load log agree on the number of rows, and every line that "
        "was read is stored, a duplicate, rejected or outside the day.",
        _row_count_problems,
    )


def schema(
    project: Project, asset: dg.AssetsDefinition, table_type: TableType
) -> dg.AssetChecksDefinition:
    """Return the check that tables have the data model's schema."""

    def find_problems(engine: StorageEngine, tables: Sequence[str]) -> Mapping[str, list[str]]:
        return engine.schema_problems(tables, table_type)

    return _table_check(
        project,
        asset,
        table_type,
        "schema",
        "Columns, types, nullability and keys are those of the data model.",
        find_problems,
    )


def _row_count_problems(engine: StorageEngine, tables: Sequence[str]) -> Mapping[str, list[str]]:
    return {counts.table_name: counts.problems for counts in engine.count_rows(tables)}


def _table_check(
    project: Project,
    asset: dg.AssetsDefinition,
    table_type: TableType,
    name: str,
    description: str,
    find_problems: FindProblems,
) -> dg.AssetChecksDefinition:
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        tables = _tables(engine, context, dataset, table_type)
        if not tables:
            return nothing_loaded(dataset)
        return _result(find_problems(engine, tables))

    return database_check(project, asset, name, description, check, blocking=True)


def _tables(
    engine: StorageEngine,
    context: dg.AssetCheckExecutionContext,
    dataset: str,
    table_type: TableType,
) -> list[str]:
    """Return the tables to judge: those of the run's days, or all."""
    if table_type != "events":
        return engine.list_snapshots(dataset) or [dataset]
    days = run_days(context)
    if days is None:
        return [day.table_name for day in engine.list_days(dataset)]
    return [day_table_name(dataset, day) for day in days]


def _result(problems: Mapping[str, list[str]]) -> dg.AssetCheckResult:
    """Return one result for all tables, with a row for each."""
    failed = [table for table, found in problems.items() if found]
    intact = [table for table, found in problems.items() if not found]
    description = f"no problems in {format_names(intact)}"
    if failed:
        description = f"{format_names(failed)}: {'; '.join(problems[failed[0]])}"
    return dg.AssetCheckResult(
        passed=not failed,
        description=description,
        metadata={
            "tables": len(problems),
            "failed": len(failed),
            "results": metadata_table(
                {"table": str, "passed": bool, "problems": str},
                [
                    (table, not problems[table], "; ".join(problems[table]))
                    for table in [*failed, *intact]
                ],
            ),
        },
    )
