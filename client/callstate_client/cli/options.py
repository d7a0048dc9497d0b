"""Options that several commands have."""

from __future__ import annotations

import argparse

from callstate_client.cli import values


def add_id(parser: argparse.ArgumentParser) -> None:
    """ID, of a session."""
    parser.add_argument("id", metavar="ID", type=values.session_id, help="the session's id")


def add_numbers(parser: argparse.ArgumentParser) -> None:
    """--show-numbers."""
    parser.add_argument(
        "--show-numbers",
        action="store_true",
        help="print calling and called numbers in full, not just their last two digits",
    )


def add_limit(parser: argparse.ArgumentParser) -> None:
    """--limit."""
    parser.add_argument("--limit", metavar="N", type=values.count, help="at most this many (default: all)")
