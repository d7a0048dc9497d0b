"""Adversarial inputs of any size, for each verb."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.hostile.attacker import request
from bench.hostile.attacks import brackets, saved


@dataclass(frozen=True)
class Input:
    """An input that can be of any size.

    Args:
        verb: the method, or what is special about it.
        what: of which there are so many.
        line: the request, by size; `@` is replaced by another number in each.
        prepare: lines that bring about a state of that size; none: the request alone is of that size.
        sizes: the smallest; it is doubled from there.
    """

    verb: str
    what: str
    line: Callable[[int], bytes]
    prepare: Callable[[int], Iterator[bytes]] = lambda _: iter(())
    smallest: int = 1000


def _ids(count: int) -> str:
    return json.dumps([f"x@-{number}" for number in range(count)])


def _sessions(count: int) -> Iterator[bytes]:
    return (saved(f"s{count}-{number}") for number in range(count))


def _turns(count: int) -> str:
    return "[" + ",".join(['{"role":"user","content":"x"}'] * count) + "]"


def _long(count: int) -> Iterator[bytes]:
    """A call with so many turns."""
    yield saved("long")
    for _ in range(count // 500):
        yield request("session.add_turn", f'{{"session_id":"long","turns":{_turns(500)}}}')


def _heavy(size: int) -> Iterator[bytes]:
    """A call with so many bytes beside its turns; of brackets there can't be as many."""
    yield saved("heavy", f',"recovery_data":{{"a":"{"x" * size}"}}')


def _released(count: int) -> Iterator[bytes]:
    """So many orphans."""
    yield request("worker.register", '{"worker_id":"gone"}')
    yield from _sessions(count)
    for number in range(count):
        yield request("session.release", f'{{"session_id":"s{count}-{number}","epoch":0}}')


def _about(method: str, session_id: str, more: str = "") -> Callable[[int], bytes]:
    return lambda _: request(f"session.{method}", f'{{"session_id":"{session_id}"{more}}}')


def _data(size: int) -> str:
    return f',"recovery_data":{{"a":{brackets(size)}}}'


def _many(value: str, size: int) -> str:
    """So many bytes of a value."""
    return f',"recovery_data":{{"a":[{",".join([value] * (size // (len(value) + 1)))}]}}'


def _text(size: int) -> str:
    return f',"recovery_data":{{"a":"{"[]," * (size // 3)}"}}'


def _members(count: int) -> str:
    return "".join(f',"M{number}":1' for number in range(count))


def _labels(count: int) -> str:
    return json.dumps({f"l{number}": "x" for number in range(count)})


def _created(digits: int) -> str:
    return f',"created_at":"2026-01-01T00:00:00.{"1" * digits}Z"'


def _types(count: int) -> str:
    return json.dumps(["created"] * count)


def _at_once(count: int) -> bytes:
    return request("session.add_turn", f'{{"session_id":"at-once","turns":{_turns(count)}}}')


def _claim_next(_: int) -> bytes:
    return request("session.claim_next", f'{{"worker_id":"w",{NONE}}}')


BYTES: Final = 32_000
"""The smallest input that is counted in bytes."""

LONG_TURN: Final = ',"turn":{"role":"user","content":"x"}'
NONE: Final = '"labels":{"a":"none"}'

INPUTS: Final = (
    Input("session.save", "bytes of `[]`", lambda n: saved("a@", _data(n)), smallest=BYTES),
    Input("session.save", 'bytes of `""`', lambda n: saved("g@", _many('""', n)), smallest=BYTES),
    Input("session.save", 'bytes of `"["`', lambda n: saved("h@", _many('"["', n)), smallest=BYTES),
    Input("session.save", "bytes of long integers", lambda n: saved("i@", _many("1" * 19, n)), smallest=BYTES),
    Input("session.save", "bytes of brackets in a text", lambda n: saved("j@", _text(n)), smallest=BYTES),
    Input("session.save", "members of a turn", lambda n: saved("k@", f',"history":[{{{_members(n)[1:]}}}]')),
    Input("session.save", "turns", lambda n: saved("b@", f',"history":{_turns(n)}')),
    Input("session.save", "odd members", lambda n: saved("c@", _members(n))),
    Input("session.save", "labels", lambda n: saved("d@", params=f',"labels":{_labels(n)}')),
    Input("session.save", "bytes of `call_id`", lambda n: saved("e@", f',"call_id":"{"x" * n}"'), smallest=BYTES),
    Input("session.save", "digits of `created_at`", lambda n: saved("f@", _created(n)), smallest=BYTES),
    Input("session.update", "bytes of head", _about("update", "heavy", ',"set":{"n":1}'), _heavy, BYTES),
    Input("session.add_turn", "turns before", _about("add_turn", "long", LONG_TURN), _long),
    Input("session.add_turn", "turns at once", _at_once, lambda _: iter([saved("at-once")])),
    Input(
        "session.amend_turn",
        "turns before",
        _about("amend_turn", "long", ',"index":0,"set":{"content":"@"}'),
        _long,
    ),
    Input("session.record_interruption", "bytes of head", _about("record_interruption", "heavy"), _heavy, BYTES),
    Input("session.load", "turns, of which one is asked for", _about("load", "long", ',"history":1'), _long),
    Input("session.load", "turns", _about("load", "long"), _long),
    Input(
        "session.heartbeat", "unknown ids", lambda n: request("session.heartbeat", f'{{"session_ids":{_ids(n)}}}')
    ),
    Input("session.list", "sessions, none matches", lambda _: request("session.list", f"{{{NONE}}}"), _sessions),
    Input(
        "session.list_active", "sessions", lambda _: request("session.list_active", '{"limit":10000}'), _sessions
    ),
    Input("session.claim_next", "orphans, none matches", _claim_next, _released),
    Input(
        "session.end",
        "bytes of an id",
        lambda n: request("session.end", f'{{"session_id":"{"x" * n}"}}'),
        smallest=BYTES,
    ),
    Input(
        "worker.register",
        "bytes of an id",
        lambda n: request("worker.register", f'{{"worker_id":"{"x" * n}"}}'),
        smallest=BYTES,
    ),
    Input("events.subscribe", "types", lambda n: request("events.subscribe", f'{{"types":{_types(n)}}}')),
    Input("no request", "brackets", lambda n: b"[" * n + b"\n", smallest=BYTES),
)
