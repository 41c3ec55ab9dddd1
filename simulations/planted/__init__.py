"""Bugs that are put into the production code for one run, to see that each is found."""
