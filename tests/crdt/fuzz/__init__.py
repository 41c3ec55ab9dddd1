"""Hostile bytes against everything that reads bytes: `python -m tests.crdt.fuzz`.

Frame bodies, snapshots, values, paths, payloads, and the yrs updates and states of shared fields,
mutated from samples that real edits gave or made up by their structure. Cases run in child
processes (`worker`) under a bound of memory; a parent (`driver`) counts those that take their child
down or never return, and goes on in a new one. A case is a function of seed and number (`cases`),
so any of them can be run again: `--seed S --case N`.
"""
