"""Transcripts of the wire protocol: read from a document, sent to a daemon, and compared with its replies.

The notation is defined in docs/protocol.md, "How to read the transcripts".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import count, groupby
from typing import Any, NamedTuple

from support.wire import Wire

MORE = "…"
NOTHING = "(nothing)"
HANGS_UP = "(hangs up)"
SENTINEL = b'{"jsonrpc":"2.0","id":"is-that-all","method":"server.ping"}'

_FENCE = re.compile(r"```transcript(?: (?P<setup>[a-z-]+))?")
_HEADING = re.compile(r"#+ (?P<title>.+)")
_SAID = re.compile(r"(?P<side>[CS])(?P<connection>[2-9]?): (?P<text>.+)")
_PLACEHOLDER = re.compile(r"<(?P<name>(?P<kind>[a-z]+)(?:-[a-z0-9]+)?)>")
_QUOTED_OR_BARE = re.compile(r'"(?P<quoted><[a-z]+(?:-[a-z0-9]+)?>)"|(?P<bare><[a-z]+(?:-[a-z0-9]+)?>)')
_FILLER = re.compile(r"<filler (?P<size>\d+)>")
_BARE_MARK = "\ue000"


class Step(NamedTuple):
    """One line: `side` is C, S or #, `connection` a number from 1, `number` that of the line in the document."""

    side: str
    connection: int
    text: str
    number: int


class Transcript(NamedTuple):
    """One fenced block.

    `heading` is that of its section, `setup` the word after `transcript`, `line` the number of its first line.
    """

    heading: str
    setup: str
    line: int
    steps: list[Step]

    def sent(self) -> Iterator[dict[str, Any]]:
        """The client's lines that are JSON objects, placeholders as text."""
        for step in self.steps:
            if step.side == "C" and step.text != HANGS_UP:
                try:
                    message = json.loads(_template(step.text))
                except ValueError:
                    continue
                if isinstance(message, dict):
                    yield message

    def answered(self) -> Iterator[dict[str, Any]]:
        """The daemon's replies, placeholders as text."""
        for step in self.steps:
            if step.side == "S" and step.text not in (NOTHING, HANGS_UP):
                message = json.loads(_template(step.text))
                if "id" in message:
                    yield message


def parse(document: str) -> list[Transcript]:
    """All transcripts of a Markdown document, in order."""
    found: list[Transcript] = []
    heading, fenced = "", False
    current: Transcript | None = None
    for number, line in enumerate(document.splitlines(), 1):
        if current is not None:
            if line == "```":
                found.append(current)
                current = None
            else:
                current.steps.append(_step(line, number))
        elif not fenced and (fence := _FENCE.fullmatch(line)):
            current = Transcript(heading, fence["setup"] or "", number, [])
        elif line.startswith("```"):
            fenced = not fenced
        elif not fenced and (title := _HEADING.fullmatch(line)):
            heading = title["title"]
    assert current is None, f"line {current.line}: the block has no end"
    return found


def _step(line: str, number: int) -> Step:
    if line.startswith("#"):
        return Step("#", 0, line.lstrip("# "), number)
    said = _SAID.fullmatch(line)
    assert said is not None, f"line {number}: neither C, S nor a remark: {line}"
    return Step(said["side"], int(said["connection"] or 1), said["text"], number)


def _template(text: str) -> str:
    """A line as JSON: a placeholder without quotes becomes text with a mark before it, `…` a member or an item."""
    text = text.replace(f"{{{MORE}}}", f'{{"{MORE}":0}}').replace(f",{MORE}}}", f',"{MORE}":0}}')
    text = text.replace(f",{MORE}]", f',"{MORE}"]')
    return _QUOTED_OR_BARE.sub(
        lambda found: found[0] if found["quoted"] else f'"{_BARE_MARK}{found["bare"]}"', text
    )


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and value.endswith("Z") and datetime.fromisoformat(value).tzinfo is not None


def _is_integer(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


KINDS: dict[str, tuple[bool, Callable[[Any], bool]]] = {
    "version": (False, lambda value: _is_integer(value, 1)),
    "count": (False, lambda value: _is_integer(value, 0)),
    "number": (False, lambda value: type(value) in (int, float) and value >= 0),
    "time": (True, _is_time),
    "cursor": (True, lambda value: isinstance(value, str) and value != ""),
    "text": (True, lambda value: isinstance(value, str) and value != ""),
}
"""A placeholder's kind: whether it stands in quotes, and what it may stand for."""


def _keyed(messages: list[dict[str, Any]]) -> list[tuple[Any, dict[str, Any]]]:
    """Each message with its key: the id of a reply, which may come in any order, or the number of an event."""
    events = count()
    return [(("id", m["id"]) if "id" in m else ("event", next(events)), m) for m in messages]


class Player:
    """Plays one transcript against a daemon.

    Args:
        connect: makes a connection; called when the transcript first names it.
        on_remark: called at each remark of the transcript, with its number, from 0.
    """

    def __init__(self, connect: Callable[[], Wire], on_remark: Callable[[int], None] = lambda _: None) -> None:
        self._connect = connect
        self._on_remark = on_remark
        self._wires: dict[int, Wire] = {}
        self._over: set[int] = set()
        self._bound: dict[str, Any] = {}

    def play(self, transcript: Transcript) -> None:
        """Play it, and assert that the replies are those of the transcript and no others."""
        remarks = 0
        with ExitStack() as opened:
            for (side, connection), group in groupby(transcript.steps, lambda step: (step.side, step.connection)):
                steps = list(group)
                if side == "#":
                    for _ in steps:
                        self._on_remark(remarks)
                        remarks += 1
                    continue
                if connection not in self._wires:
                    self._wires[connection] = opened.enter_context(self._connect())
                if side == "C":
                    self._say(self._wires[connection], steps)
                else:
                    self._expect(self._wires[connection], steps)
            for connection in self._wires.keys() - self._over:
                self._nothing(self._wires[connection], transcript.steps[-1])

    def _say(self, wire: Wire, steps: list[Step]) -> None:
        lines = [step for step in steps if step.text != HANGS_UP]
        wire.send(b"".join(self._line(step) for step in lines))
        if len(lines) < len(steps):
            wire.close()
            self._over.add(steps[0].connection)

    def _line(self, step: Step) -> bytes:
        def value(found: re.Match[str]) -> str:
            assert found["name"] in self._bound, f"line {step.number}: {found[0]} has no value yet"
            bound = self._bound[found["name"]]
            return json.dumps(bound)[1:-1] if isinstance(bound, str) else str(bound)

        text = _FILLER.sub(lambda found: "x" * int(found["size"]), step.text)
        return _PLACEHOLDER.sub(value, text).encode() + b"\n"

    def _expect(self, wire: Wire, steps: list[Step]) -> None:
        if steps[0].text == NOTHING:
            self._nothing(wire, steps[0])
            steps = steps[1:]
        hangs_up = bool(steps) and steps[-1].text == HANGS_UP
        lines = steps[: len(steps) - hangs_up]
        wanted = _keyed([json.loads(_template(step.text)) for step in lines])
        replies = _keyed([wire.reply() for _ in wanted])
        for step, (key, template) in zip(lines, wanted, strict=True):
            # replies come in any order, events in the order of their lines
            found = next((place for place, (other, _) in enumerate(replies) if other == key), None)
            assert found is not None, f"line {step.number}: no such reply among {replies}"
            self._match(template, replies.pop(found)[1], f"line {step.number}: $")
        if hangs_up:
            assert wire.at_eof(), f"line {steps[-1].number}: the daemon did not hang up"
            self._over.add(steps[-1].connection)

    def _nothing(self, wire: Wire, step: Step) -> None:
        reply = wire.ask(SENTINEL)
        more = reply.get("id") != "is-that-all"
        assert not more, f"line {step.number}: a reply that is not in the transcript: {reply}"

    def _match(self, template: Any, actual: Any, place: str) -> None:
        if isinstance(template, str) and (found := _PLACEHOLDER.fullmatch(template.removeprefix(_BARE_MARK))):
            self._bind(found, not template.startswith(_BARE_MARK), actual, place)
        elif isinstance(template, dict):
            assert isinstance(actual, dict), f"{place}: {actual!r} is no object"
            names = template.keys() - {MORE}
            surplus = actual.keys() - names if MORE not in template else set()
            assert not surplus, f"{place}: not in the transcript: {surplus} of {actual}"
            assert names <= actual.keys(), f"{place}: not in the reply: {names - actual.keys()} of {actual}"
            for name in names:
                self._match(template[name], actual[name], f"{place}.{name}")
        elif isinstance(template, list):
            assert isinstance(actual, list), f"{place}: {actual!r} is no array"
            if template[-1:] == [MORE]:
                template, actual = template[:-1], actual[: len(template) - 1]
            assert len(template) == len(actual), f"{place}: {actual!r}"
            for index, (one, other) in enumerate(zip(template, actual, strict=True)):
                self._match(one, other, f"{place}[{index}]")
        else:
            assert type(template) is type(actual), f"{place}: {actual!r}, not {template!r}"
            assert template == actual, f"{place}: {actual!r}, not {template!r}"

    def _bind(self, found: re.Match[str], quoted: bool, actual: Any, place: str) -> None:
        assert found["kind"] in KINDS, f"{place}: {found[0]} has an unknown kind"
        in_quotes, fits = KINDS[found["kind"]]
        assert in_quotes is quoted, f"{place}: {found[0]} and its quotes"
        assert fits(actual), f"{place}: {actual!r} is no {found['kind']}"
        bound = self._bound.setdefault(found["name"], actual)
        assert bound == actual, f"{place}: {found[0]} was {bound!r} before, and is {actual!r}"
