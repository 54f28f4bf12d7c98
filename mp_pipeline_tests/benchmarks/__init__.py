"""Benchmarks: how fast days and profiles load, how much memory that takes, and how both grow.

Run ``python -m mp_pipeline_tests.benchmarks``; ``--help`` lists the sections. Figures are ratios
within one run, so the speed of the machine cancels out. ``docs/performance.md`` explains how to
read them.
"""
