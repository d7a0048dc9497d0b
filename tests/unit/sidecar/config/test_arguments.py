"""`callstated --help`: what somebody reads who has only the program."""

from __future__ import annotations

from callstate_sidecar.config.arguments import parser
from callstate_sidecar.config.reference import help_epilog
from callstate_sidecar.journal.cli import parser as journal_parser


def test_the_help_leads_to_the_commands_for_the_journal() -> None:
    assert "callstated journal --help" in parser().format_help()


def test_a_size_is_given_in_words_unless_it_is_zero() -> None:
    told = " ".join(help_epilog().split())  # whatever the lines
    assert "; 64 MiB)" in told
    assert "; 0 " not in told


def test_descriptions_of_the_journals_commands_keep_their_capitals() -> None:
    (commands,) = (action for action in journal_parser()._actions if isinstance(action.choices, dict))
    assert commands.choices is not None
    assert "JSON" in commands.choices["export"].description
