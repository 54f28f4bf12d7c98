"""Typed tables: one table per event, with a typed column for each of its properties.

The modules, in the order in which they build on each other: ``models``, ``names`` and ``types``
say what a column is; ``registry`` records which ones exist; ``shapes`` finds what a day has;
``plan`` compares the two; ``widening`` changes types; ``rows`` inserts; ``dictionary`` and
``comments`` describe the tables; ``fast_events`` reads all events from them; ``day`` replaces a
day.
"""
