"""Checks of the tables: every line is accounted for, and the schema is the data model's.

They judge the tables that their run wrote, and all of them when they run alone. They look at what
is in the database now, not at what a load said of itself.
"""

from collections.abc import Callable

import dagster as dg

from mp_pipeline.checks.check import database_check, run_days, table_of
from mp_pipeline.io_manager import table_name
from mp_pipeline.partitions import listed
from mp_pipeline.storage import StorageEngine, TableNotFoundError, TableType, day_table_name

Judge = Callable[[StorageEngine, str, TableType], list[str]]
"""Returns what is wrong with a table, in words; empty if nothing is."""


def row_count(asset: dg.AssetsDefinition, table_type: TableType) -> dg.AssetChecksDefinition:
    """Return the check that all lines are accounted for."""
    return _table_check(
        asset,
        table_type,
        "row_count",
        "The table, `_metadata` and the load log agree on the rows, and all lines that were read "
        "are stored, duplicates, rejected or outside the day.",
        _row_count_problems,
    )


def schema(asset: dg.AssetsDefinition, table_type: TableType) -> dg.AssetChecksDefinition:
    """Return the check that the tables are as the data model has them."""
    return _table_check(
        asset,
        table_type,
        "schema",
        "Columns, types, nullability and primary key are those of the data model.",
        _schema_problems,
    )


def _row_count_problems(engine: StorageEngine, table: str, _: TableType) -> list[str]:
    return engine.count_rows([table])[0].problems


def _schema_problems(engine: StorageEngine, table: str, table_type: TableType) -> list[str]:
    return engine.schema_problems(table, table_type)


def _table_check(
    asset: dg.AssetsDefinition, table_type: TableType, name: str, description: str, judge: Judge
) -> dg.AssetChecksDefinition:
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        tables = _tables(engine, context, dataset, table_type)
        problems = {table: _problems(engine, table, table_type, judge) for table in tables}
        return _result(dataset, problems)

    return database_check(asset, name, description, check, blocking=True)


def _tables(
    engine: StorageEngine,
    context: dg.AssetCheckExecutionContext,
    dataset: str,
    table_type: TableType,
) -> list[str]:
    """Return the tables to judge: those of the run's days, or all."""
    if table_type == "profiles":
        return [dataset]
    days = run_days(context)
    if days is None:
        return [day.table_name for day in engine.list_days(dataset)]
    return [day_table_name(dataset, day) for day in days]


def _problems(engine: StorageEngine, table: str, table_type: TableType, judge: Judge) -> list[str]:
    try:
        return judge(engine, table, table_type)
    except TableNotFoundError as error:
        return [str(error)]


def _result(dataset: str, problems: dict[str, list[str]]) -> dg.AssetCheckResult:
    """Return one result for several tables, with a row for each."""
    failed = [table for table, found in problems.items() if found]
    if not problems:
        description = f"nothing of {dataset} is loaded"
    elif failed:
        description = f"{listed(failed)}: {'; '.join(problems[failed[0]])}"
    else:
        description = f"no problems in {listed(list(problems))}"
    return dg.AssetCheckResult(
        passed=bool(problems) and not failed,
        description=description,
        metadata={
            "tables": len(problems),
            "failed": len(failed),
            "results": table_of(
                {"table": str, "passed": bool, "problems": str},
                [
                    (table, not problems[table], "; ".join(problems[table]))
                    for table in [
                        *failed,
                        *(table for table in problems if not problems[table]),
                    ]
                ],
            ),
        },
    )
