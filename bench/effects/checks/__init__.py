"""The checks, one file per family of methods. Files here are found by themselves."""
