"""The PostgreSQL server that other tests use."""

from dataclasses import replace

import psycopg
import pytest

from mp_pipeline_tests.support.postgres import Database, PostgresServer


def test_a_server_keeps_its_data_and_port() -> None:
    with PostgresServer() as server:
        database = server.create_database()
        with database.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS value")
        for end in (server.stop, server.kill):
            end()
            with pytest.raises(psycopg.OperationalError, match="refused"):
                database.connect()
            server.start()
            with database.connect() as connection:
                assert connection.execute("SELECT value FROM kept").fetchone() == (1,)
        with database.connect() as connection:
            server.restart()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")


def test_each_test_has_an_empty_database_that_needs_a_password(postgres: Database) -> None:
    with postgres.connect() as connection:
        found = connection.execute("SELECT relname FROM pg_stat_user_tables")
        assert found.fetchall() == []
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        replace(postgres, password="wrong").connect()
