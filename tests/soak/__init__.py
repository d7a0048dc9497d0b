"""A daemon under mixed load, with faults at random: see run.py."""
