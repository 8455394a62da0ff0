"""Benchmarks: run by hand on a quiet machine, no part of the tests."""
