"""Manual pages out of argparse's parsers, in man(7)'s macros: what scripts/manual.py writes."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

Rows = Iterable[tuple[str, str]]


def page(name: str, section: int, summary: str, body: Iterable[str]) -> str:
    """A page.

    Args:
        name: of the page.
        section: of the manual.
        summary: what it is about, for NAME and apropos(1).
        body: lines of macros.
    """
    manual = {1: "User Commands", 5: "File Formats"}[section]
    head = [
        '.\\" Made by scripts/manual.py of what --help prints; `make reference` makes it anew.',
        f'.TH {name.upper()} {section} "" "callstate" "{manual}"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(summary)}",
    ]
    lines = [*head]
    for line in body:
        if line != ".PP" or not lines[-1].startswith((".SH", ".SS")):  # where a paragraph begins anyway
            lines.append(line)
    return "\n".join(lines) + "\n"


def heading(title: str) -> str:
    """A section."""
    return f".SH {title.upper()}"


def subheading(title: str) -> str:
    """A section within one."""
    return f'.SS "{escaped(title)}"'


def paragraph(text: str) -> Iterator[str]:
    """Some sentences; what stands between backticks is set as it is typed."""
    yield ".PP"
    yield from _filled(text)


def _sentence(text: str) -> Iterator[str]:
    """A line of `--help` as a sentence."""
    return _filled(f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}")


def table(rows: Rows) -> Iterator[str]:
    """Terms, each with what it means beneath it."""
    for term, meaning in rows:
        yield ".TP"
        yield f"\\fB{escaped(term)}\\fR"
        yield from _sentence(meaning)


def example(lines: Sequence[str]) -> Iterator[str]:
    """Lines as they are typed."""
    yield from (".PP", ".RS 4", ".EX", *map(escaped, lines), ".EE", ".RE")


def synopsis(parser: argparse.ArgumentParser, left_out: frozenset[str] = frozenset()) -> Iterator[str]:
    """How a command is typed, without the options named."""
    words = [f"\\fB{escaped(parser.prog)}\\fR"]
    for action in _actions(parser, left_out):
        if isinstance(action, argparse._SubParsersAction):
            words.append(f"\\fI{escaped(str(action.metavar))}\\fR …")
        else:
            words.append(_usage(action))
    yield ".PP"
    yield from words


def options(parser: argparse.ArgumentParser, left_out: frozenset[str] = frozenset()) -> Iterator[str]:
    """The options and arguments of a parser, each with its help."""
    for action in _actions(parser, left_out):
        if isinstance(action, argparse._SubParsersAction):
            continue
        value = _value(action)
        names = [f"\\fB{escaped(name)}\\fR" for name in action.option_strings] or [value]
        yield ".TP"
        yield ", ".join(names) + (f" {value}" if action.option_strings and value else "")
        yield from _sentence((action.help or "").replace("%%", "%"))


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parsers of all commands beneath one, those that have commands of their own not included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, beneath in action.choices.items():
                inner = [(f"{name} {each}", found) for each, found in commands(beneath)]
                yield from inner or [(name, beneath)]


def names_of(parser: argparse.ArgumentParser) -> frozenset[str]:
    """What the options of a parser set."""
    return frozenset(action.dest for action in parser._actions if action.option_strings)


def exits(meanings: Mapping[int, str]) -> Iterator[str]:
    """Exit codes with their meanings."""
    yield from table((str(status), meaning) for status, meaning in sorted(meanings.items()))


def escaped(text: str) -> str:
    """Text for roff: as it is, also where it begins a line or has a dash that is typed."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _filled(text: str) -> Iterator[str]:
    """Sentences as lines of moderate length; roff fills them again."""
    for line in textwrap.wrap(text, 78, break_on_hyphens=False, break_long_words=False):
        yield re.sub(r"`([^`]+)`", r"\\fB\1\\fR", escaped(line))


def _actions(parser: argparse.ArgumentParser, left_out: frozenset[str]) -> list[argparse.Action]:
    """Options first, then arguments, as they stand in `--help`; without --help itself."""
    shown = [action for action in parser._actions if action.dest not in left_out | {"help"}]
    return sorted(shown, key=lambda action: not action.option_strings)


def _usage(action: argparse.Action) -> str:
    value = _value(action)
    if not action.option_strings:
        return f"[{value} …]" if action.nargs == "*" else value
    name = next((each for each in action.option_strings if each.startswith("--")), action.option_strings[0])
    return f"[\\fB{escaped(name)}\\fR{' ' if value else ''}{value}]"


def _value(action: argparse.Action) -> str:
    """What stands for the value of an option or argument."""
    if action.nargs == 0:
        return ""
    metavar = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    value = f"\\fI{escaped(str(metavar))}\\fR"
    return f"[{value}]" if action.nargs == "?" else value
