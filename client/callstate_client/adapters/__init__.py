"""Adapters between a call's turns and what voice frameworks and chat models use.

Each module needs the package that it is for, and is imported by its own name; nothing here is loaded otherwise.
"""
