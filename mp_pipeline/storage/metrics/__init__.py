"""Metrics: the reports that Mixpanel makes of events and profiles, in SQL.

The modules, in the order in which they build on each other: ``models`` and ``names`` say what is
reported and what things are called; ``objects`` creates macros; ``profile_history`` keeps the
versions of profiles; ``collecting`` reads what a day says of users; ``components`` and
``identities`` find out which IDs are one user; ``days`` says which days are stale; ``sessions`` and
``actives`` replace a day; ``user_events``, ``funnels`` and ``retention`` are macros that clients
call; ``erasing`` reaches all of it.
"""
