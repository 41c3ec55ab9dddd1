"""Rehearsing all of it: fleets under faults, and the checkers that judge them."""
