"""Asset checks: every line is accounted for, and the schema is the data model's.

A check judges the tables that its run wrote, and all of them when it runs alone. It looks at what
is in the database now, not at what a load said of itself.
"""

from collections.abc import Callable
from datetime import date

import dagster as dg

from mp_pipeline.assets import events, profiles
from mp_pipeline.io_manager import table_name
from mp_pipeline.partitions import listed
from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import StorageEngine, TableNotFoundError, TableType, day_table_name

Judge = Callable[[StorageEngine, str, TableType], list[str]]
"""Returns what is wrong with a table, in words; empty if nothing is."""

_SHOWN_IN_FULL = 400  # tables; more than a year of days


def _row_count_problems(engine: StorageEngine, table: str, _: TableType) -> list[str]:
    return engine.count_rows([table])[0].problems


def _schema_problems(engine: StorageEngine, table: str, table_type: TableType) -> list[str]:
    return engine.schema_problems(table, table_type)


def _check(
    asset: dg.AssetsDefinition, table_type: TableType, name: str, description: str, judge: Judge
) -> dg.AssetChecksDefinition:
    dataset = table_name(asset.key)

    @dg.asset_check(asset=asset, name=name, description=description, blocking=True)
    def check(
        context: dg.AssetCheckExecutionContext, duckdb: MixpanelDuckDBResource
    ) -> dg.AssetCheckResult:
        try:
            with duckdb.get_engine(read_only=True) as engine:
                tables = _tables(engine, context, dataset, table_type)
                problems = {table: _problems(engine, table, table_type, judge) for table in tables}
        except FileNotFoundError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        return _result(dataset, problems)

    return check


def _tables(
    engine: StorageEngine,
    context: dg.AssetCheckExecutionContext,
    dataset: str,
    table_type: TableType,
) -> list[str]:
    """Return the tables to judge: those of the run's days, or all."""
    if table_type == "profiles":
        return [dataset]
    try:
        days = [date.fromisoformat(key) for key in context.partition_keys]
    except dg.DagsterInvariantViolationError:  # the check runs alone
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
    shown = [*failed, *(table for table in problems if not problems[table])][:_SHOWN_IN_FULL]
    return dg.AssetCheckResult(
        passed=bool(problems) and not failed,
        description=description,
        metadata={
            "tables": len(problems),
            "failed": len(failed),
            "results": dg.MetadataValue.table(
                [
                    dg.TableRecord(
                        {
                            "table": table,
                            "passed": not problems[table],
                            "problems": "; ".join(problems[table]),
                        }
                    )
                    for table in shown
                ],
                schema=dg.TableSchema(
                    [
                        dg.TableColumn("table"),
                        dg.TableColumn("passed", "bool"),
                        dg.TableColumn("problems"),
                    ]
                ),
            ),
        },
    )


_ROW_COUNT = (
    "The table, `_metadata` and the load log agree on the rows, and all lines that were read are "
    "stored, duplicates, rejected or outside the day."
)
_SCHEMA = "Columns, types, nullability and primary key are those of the data model."

checks = [
    _check(events, "events", "row_count", _ROW_COUNT, _row_count_problems),
    _check(events, "events", "schema", _SCHEMA, _schema_problems),
    _check(profiles, "profiles", "row_count", _ROW_COUNT, _row_count_problems),
    _check(profiles, "profiles", "schema", _SCHEMA, _schema_problems),
]
