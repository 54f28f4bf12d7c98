"""Metrics: the reports that Mixpanel makes of events and profiles, in SQL.

The modules, in the order in which they build on each other: ``models`` and ``names`` say what is
reported and what things are called; ``objects`` creates views and macros; ``profile_history`` keeps
the versions of profiles.
"""
