"""Benchmarks: how fast days load, in how much memory, and whether it stays so.

Run ``python -m mp_pipeline_tests.benchmarks``; ``--help`` lists the sections. Figures are ratios
within one run: the machine and what else it does cancel out. ``docs/performance.md`` says how to
read them.
"""
