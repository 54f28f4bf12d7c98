"""Creating views and macros that clients use by name, and never over something of the user's."""

import duckdb

from mp_pipeline.storage.errors import TableExistsError
from mp_pipeline.storage.lake import find_catalog
from mp_pipeline.storage.schema import OWN_COMMENT
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import literal, quoted


def create_macro(
    connection: duckdb.DuckDBPyConnection, name: str, parameters: str, query: str
) -> None:
    """Create a table macro, or bring it up to date.

    Args:
        connection: The database.
        name: The name of the macro.
        parameters: Its parameters, as SQL.
        query: What it selects.

    Raises:
        TableExistsError: The user has a macro of that name.
    """
    # A lake has no comments on macros; those of this engine read its internal tables.
    is_lake = find_catalog(connection) is not None
    mark = "nullif(regexp_extract(macro_definition, '_identities|_profile_versions'), '')"
    found = execute(
        connection,
        f"SELECT any_value({mark if is_lake else 'comment'}) "
        "FROM duckdb_functions() "
        "WHERE database_name = current_database() AND schema_name = current_schema() "
        "AND lower(function_name) = lower(?) HAVING count(*) > 0",
        [name],
    )
    if found == [(None,)]:
        raise TableExistsError(
            f"the metrics need the name {name!r}, which another macro has; drop that"
        )
    execute(connection, f"CREATE OR REPLACE MACRO {quoted(name)}({parameters}) AS TABLE {query}")
    if not is_lake:
        comment = literal(found[0][0] if found else OWN_COMMENT)
        execute(connection, f"COMMENT ON MACRO TABLE {quoted(name)} IS {comment}")
