"""Mixpanel events and user profiles in DuckDB, run by Dagster."""
