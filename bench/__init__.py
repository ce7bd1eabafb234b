"""Benchmarks: each module is one, and is run as `./dev bench NAME`."""
