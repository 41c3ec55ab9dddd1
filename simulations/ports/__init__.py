"""Simulated ports: disk, clocks, network and services; they pass the suites of the real ones."""
