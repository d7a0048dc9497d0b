"""The attacks: what each prepares as an ordinary client, and what it then does for some seconds."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from bench.hostile.attacker import Attack, Attacker, request
from bench.wire import Wire

MB: Final = 1_000_000


@dataclass(frozen=True)
class Scene:
    """One attack.

    Args:
        name: in the table.
        attack: what the attacker does.
        prepare: what is there before, made by an ordinary client; the argument scales it, 1 for a full run.
        elsewhere: it is made at another host, so that only the store has it.
        same_user: the attacker is another process of its victim's user, not of another user.
    """

    name: str
    attack: Attack
    prepare: Callable[[Wire, float], None] = lambda _wire, _scale: None
    elsewhere: bool = False
    same_user: bool = False


def saved(session_id: str, more: str = "", params: str = "") -> bytes:
    """The line of a save of a small session; `more` are members, `params` parameters, with a leading comma."""
    return request("session.save", f'{{"session":{{"id":"{session_id}","status":"active"{more}}}{params}}}')


def brackets(size: int) -> str:
    """An array of empty arrays of so many bytes."""
    return "[" + ",".join(["[]"] * (size // 3)) + "]"


def many(wire: Wire, count: int, more: str = "", params: str = "") -> None:
    """Save so many small sessions."""
    wire.send_all(saved(f"many-{number}", more, params) for number in range(count))


# -- costly documents -------------------------------------------------------------------------------------------


def _grow_head(wire: Wire, scale: float) -> None:
    """A head as large as the daemon lets it become, 8 MB at most."""
    wire.send_all([saved("grown")])
    for number in range(max(1, round(9 * scale))):
        update = f'{{"session_id":"grown","set":{{"part{number}":{brackets(900_000)}}}}}'
        wire.socket.sendall(request("session.update", update))
        with suppress(RuntimeError):  # too large: what fits is there
            wire.reply()


def _update_head(attacker: Attacker) -> None:
    lines = request("session.update", '{"session_id":"grown","set":{"call_id":"x"}}') * 16
    attacker.repeat(lambda: [lines])


def _save(value: str) -> Attack:
    """Saves with this value in the recovery data."""
    line = saved("nested", f',"recovery_data":{{"a":{value}}}')
    return lambda attacker: attacker.repeat(lambda: [line])


def _save_odd_members(attacker: Attacker) -> None:
    members = "".join(f',"Status{number}":1,"STATUS{number}":1' for number in range(20_000))
    attacker.repeat(lambda: [saved("odd", members)])


def _save_spaced_history(attacker: Attacker) -> None:
    turns = ",".join(['{"role":"user","content":"x"}'] * 30_000)
    attacker.repeat(lambda: [saved("spaced", f',"history" : [{turns}]')])


# -- replies that nobody reads ----------------------------------------------------------------------------------


def _long_ids(wire: Wire, scale: float) -> None:
    wire.send_all(saved(f"{number:0200}") for number in range(round(10_000 * scale)))


def _list_active(attacker: Attacker) -> None:
    line = request("session.list_active", '{"scope":"all","limit":10000}')
    attacker.wait(attacker.deaf(line * (97_000 // len(line)), 1))


def _big_sessions(wire: Wire, scale: float) -> None:
    pad = "x" * 900_000
    wire.send_all(
        saved(f"big-{number}", f',"recovery_data":{{"pad":"{pad}"}}') for number in range(round(100 * scale))
    )


def _list_big(attacker: Attacker) -> None:
    attacker.wait(attacker.deaf(request("session.list") * 20, 20))


def _deaf_subscribers(attacker: Attacker) -> None:
    deaf = attacker.deaf(request("events.subscribe"), 200)
    labels = json.dumps({f"label-{number}": "x" * 250 for number in range(16)})
    numbers = itertools.count()
    attacker.repeat(lambda: [saved(f"event-{next(numbers)}", params=f',"labels":{labels}')])
    attacker.wait(deaf)


def _unfinished(attacker: Attacker) -> None:
    opened = attacker.many(50)
    while attacker.goes_on and opened:
        for connection in [*opened]:
            for _ in range(200):
                if not attacker.send(connection, b"xx"):
                    opened.remove(connection)
                    break
    attacker.wait(opened)


# -- memory -----------------------------------------------------------------------------------------------------


def _hot(attacker: Attacker) -> None:
    numbers, pad = itertools.count(), "x" * 900_000
    attacker.repeat(lambda: [saved(f"hot-{next(numbers)}", f',"recovery_data":{{"pad":"{pad}"}}')])


def _created_at(attacker: Attacker) -> None:
    numbers = itertools.count()
    attacker.repeat(lambda: [saved("late", f',"created_at":"2026-01-01T00:00:00.{next(numbers):0900000}Z"')])


def _call_id(attacker: Attacker) -> None:
    numbers = itertools.count()
    attacker.repeat(lambda: [saved(f"named-{next(numbers)}", f',"call_id":"{"x" * 900_000}"')])


def _junk_sessions(attacker: Attacker) -> None:
    numbers = itertools.count()
    attacker.repeat(lambda: [b"".join(saved(f"junk-{next(numbers)}") for _ in range(50))])


def _timeouts(attacker: Attacker) -> None:
    numbers = itertools.count()

    def lines() -> Iterator[bytes]:
        yield b"".join(
            saved(f"timed-{number}", params=f',"heartbeat_timeout_s":{30 + number / 1000}')
            for number in itertools.islice(numbers, 50)
        )

    attacker.repeat(lines)


def _durations(attacker: Attacker) -> None:
    numbers = itertools.count(1)

    def lines() -> Iterator[bytes]:
        yield b"".join(
            saved("lasting", params=f',"max_duration_s":{3600 + number / 1000}')
            for number in itertools.islice(numbers, 50)
        )

    attacker.repeat(lines)


# -- requests that ask for much ---------------------------------------------------------------------------------


def _unknown_ids(attacker: Attacker) -> None:
    rounds = itertools.count()

    def lines() -> Iterator[bytes]:
        first = next(rounds) * 100_000
        ids = ",".join(f'"x{number}"' for number in range(first, first + 100_000))
        yield request("session.heartbeat", f'{{"session_ids":[{ids}]}}')

    attacker.repeat(lines)


def _orphans(wire: Wire, scale: float) -> None:
    """Sessions whose owner has released them all."""
    count = round(50_000 * scale)
    wire.call("worker.register", worker_id="left")
    many(wire, count)
    wire.send_all(
        request("session.release", f'{{"session_id":"many-{number}","epoch":0}}') for number in range(count)
    )


def _claim_next(attacker: Attacker) -> None:
    line = request("session.claim_next", '{"worker_id":"w","labels":{"app":"none"}}')
    attacker.repeat(lambda: [line * 16])


def _list_filtered(attacker: Attacker) -> None:
    line = request("session.list", '{"labels":{"app":"none"},"call_id":"none"}')
    attacker.repeat(lambda: [line * 16])


def _flood(attacker: Attacker) -> None:
    line = request("session.heartbeat", '{"session_id":"victim"}')
    attacker.repeat(lambda: [line * 200], connections=4)


def _junk(attacker: Attacker) -> None:
    attacker.repeat(lambda: [b"junk\n" * 200], connections=4)


# -- connections ------------------------------------------------------------------------------------------------


def _idle(attacker: Attacker) -> None:
    attacker.wait(attacker.many(2000))


def _workers(attacker: Attacker) -> None:
    opened: list[socket.socket] = []
    for number, connection in enumerate(attacker.many(2000)):
        opened.append(connection)
        if not attacker.send(connection, request("worker.register", f'{{"worker_id":"junk-{number}"}}')):
            break
    attacker.wait(opened)


def _crowd(attacker: Attacker) -> None:
    attacker.flood(request("session.heartbeat", '{"session_id":"victim"}') * 200, 900)


def _reconnect(attacker: Attacker) -> None:
    while attacker.goes_on:
        connection = attacker.connect()
        if connection is not None:
            attacker.ask(connection, request("server.ping"))
            connection.close()


SCENES: Final = (
    Scene("updates of a head of 8 MB of `[]`", _update_head, _grow_head),
    Scene("saves of 1 MB of `[]`", _save(brackets(MB))),
    Scene("saves of 1 MB of `\"\"`", _save(brackets(MB).replace("[]", '""'))),
    Scene("saves of a text of 1 MB of brackets", _save(f'"{brackets(MB)}"')),
    Scene("saves with 40,000 odd members", _save_odd_members),
    Scene("saves of 30,000 turns, spelt oddly", _save_spaced_history),
    Scene("97 kB of `list_active`, not read", _list_active, _long_ids, elsewhere=True),
    Scene("`session.list` of 90 MB, 20 deaf", _list_big, _big_sessions),
    Scene("200 deaf subscribers", _deaf_subscribers),
    Scene("unfinished lines, in pieces", _unfinished),
    Scene("sessions of 0.9 MB without end", _hot),
    Scene("`created_at` of 0.9 MB", _created_at),
    Scene("`call_id` of 0.9 MB", _call_id),
    Scene("100,000 unknown ids a heartbeat", _unknown_ids),
    Scene("`claim_next` over 50,000 orphans", _claim_next, _orphans),
    Scene("`session.list`, nothing matches", _list_filtered, lambda wire, scale: many(wire, round(50_000 * scale))),
    Scene("sessions with a timeout each", _timeouts),
    Scene("saves with a `max_duration_s` each", _durations),
    Scene("junk sessions", _junk_sessions),
    Scene("heartbeats as fast as it can", _flood),
    Scene("junk lines as fast as it can", _junk),
    Scene("2,000 idle connections", _idle),
    Scene("2,000 workers", _workers),
    Scene("900 workers that flood", _crowd),
    Scene("900 workers that flood, of the same user", _crowd, same_user=True),
    Scene("a new connection for each request", _reconnect),
)  # fmt: skip
