"""Timings side by side, each with its bar: ``python -m benchmarks.speed.<name>``."""
