"""Commands of the command line, a file for each group; thin over functions that programs call."""
