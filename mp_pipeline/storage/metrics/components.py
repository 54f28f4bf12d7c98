"""Connected components of pairs, by contraction (Bögeholz, Brand, Todor 2020).

In each round every node moves to that of its neighbors, or itself, which comes first in an order
that is random in each round. At least a third of the nodes are expected to be left empty, so there
are few rounds even for long chains: 1,000,000 pairs take about 2 s, a recursive query 10 to 44 s.
"""

import duckdb

from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.user_ids import DEVICE_PREFIX

COMPONENTS = "_components"
"""The temporary table with the result: ``distinct_id``, ``user_id`` and ``ids``, the number of IDs
of the user."""


def find_components(connection: duckdb.DuckDBPyConnection, pairs: str) -> None:
    """Create ``COMPONENTS`` of the IDs in pairs.

    The user is called by the first of their IDs in alphabetical order, devices last: this does not
    depend on the order in which days are loaded.

    Args:
        connection: The database.
        pairs: A query with the columns ``id`` and ``other``.
    """
    _create(connection, "_pairs", pairs)
    _create(
        connection,
        "_nodes",
        f"""
        SELECT id, row_number() OVER (ORDER BY starts_with(id, '{DEVICE_PREFIX}'), id) AS node
        FROM (SELECT id FROM _pairs UNION SELECT other FROM _pairs)
        """,
    )
    _create(
        connection,
        "_edges",
        "SELECT a.node AS a, b.node AS b FROM _pairs "
        "JOIN _nodes AS a USING (id) JOIN _nodes AS b ON b.id = other",
    )
    rounds = 0
    while execute(connection, "SELECT count(*) FROM _edges") != [(0,)]:
        _contract(connection, f"_moves_{rounds}", rounds)
        rounds += 1
    for earlier in reversed(range(rounds - 1)):  # where a node is in the end
        _create(
            connection,
            f"_moves_{earlier}",
            f"""
            SELECT now.node, coalesce(later.target, now.target) AS target
            FROM _moves_{earlier} AS now LEFT JOIN _moves_{earlier + 1} AS later
                ON later.node = now.target
            """,
        )
    moves = "_moves_0" if rounds else "(SELECT NULL::BIGINT AS node, NULL::BIGINT AS target)"
    _create(
        connection,
        COMPONENTS,
        f"""
        WITH groups AS (
            SELECT target, min(node) AS first, count(*) AS ids FROM {moves} GROUP BY target
        )
        SELECT _nodes.id AS distinct_id, users.id AS user_id, groups.ids
        FROM _nodes JOIN {moves} AS moves USING (node) JOIN groups USING (target)
        JOIN _nodes AS users ON users.node = first
        """,
    )
    for name in ("_pairs", "_nodes", "_edges", *(f"_moves_{number}" for number in range(rounds))):
        execute(connection, f"DROP TABLE temp.{name}")


def _contract(connection: duckdb.DuckDBPyConnection, moves: str, seed: int) -> None:
    """Move each node of ``_edges``; leave the edges between different nodes."""
    _create(
        connection,
        moves,
        f"""
        SELECT node, arg_min(near, hash(near, {seed})) AS target FROM (
            SELECT a AS node, unnest([a, b]) AS near FROM _edges
            UNION ALL SELECT b, unnest([a, b]) FROM _edges
        ) GROUP BY node
        """,
    )
    _create(
        connection,
        "_edges",
        f"""
        SELECT DISTINCT least(a.target, b.target) AS a, greatest(a.target, b.target) AS b
        FROM _edges JOIN {moves} AS a ON a.node = _edges.a JOIN {moves} AS b ON b.node = _edges.b
        WHERE a.target <> b.target
        """,
    )


def _create(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    execute(connection, f"CREATE OR REPLACE TEMP TABLE {name} AS {query}")
