"""Fuzzing of everything that reads bytes from outside: clients, the journal's files, the store, the configuration.

Each module of `targets` has a function `check(data)`: it passes the bytes to our code, and raises whatever our code
raises beyond its declared errors, or an AssertionError where the outcome differs from that of an
independent reader, such as the standard json module. `python -m fuzz` runs them with atheris; the suite replays
`corpus/` without it.
"""
