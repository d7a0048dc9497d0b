"""The mark: how a daemon notices that Redis has lost what was written to it.

A FLUSHALL, a restart without data, an eviction, or a failover to a replica that lagged behind: Redis goes on
answering, and nothing fails. So the daemon keeps one key on the server, and sets it to a new value at the end of
each batch: a server that has the value has all that was written before. If it no longer has the value last set, it
has lost writes, and perhaps everything. A server with another run id was restarted, or is another one, and is not
trusted either; that is looked at each second.

Values are numbered. A batch whose reply was lost may have been executed or not, so any number from the last
confirmed one on is right.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.stores.redis.client import ScriptCall
from callstate_sidecar.stores.redis.write_scripts import MARK

log = EventLog(__name__)

MARK_TTL_MS: Final = 30 * 86_400_000
"""The mark of a host that is gone for good expires."""


MAX_UNANSWERED: Final = 100
"""Values whose replies are still waited for; those of broken connections never come."""


class Mark:
    """The mark of this host on one server.

    Args:
        key: of the mark.

    Attributes:
        losses: how often the server was found to have lost writes.
        confirmed: the number of the last value that the server is known to have had; 0 for none yet.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._token = secrets.token_hex(8)
        self._last = 0
        self._sent: dict[int, int] = {}
        """Numbers on their way, and `confirmed` when they were sent; replies may come in another order."""
        self._run_id = b""
        self.losses = 0
        self.confirmed = 0

    def call(self, *, with_run_id: bool = False) -> ScriptCall:
        """A call that sets the next value; it goes to `check`, with its reply.

        Args:
            with_run_id: also look at the server's run id, which costs it five times as much.
        """
        self._last += 1
        self._sent[self._last] = self.confirmed
        while len(self._sent) > MAX_UNANSWERED:
            del self._sent[next(iter(self._sent))]
        known = [self._run_id] if with_run_id else []
        return ScriptCall(MARK, [self._key], [f"{self._token}:{self._last}".encode(), MARK_TTL_MS, *known])

    def is_kept(self, value: bytes, since: int) -> bool:
        """Whether a server with this value has all that it had when `confirmed` was `since`."""
        token, _, number = value.partition(b":")
        return token == self._token.encode() and number.isdigit() and int(number) >= since > 0

    def check(self, call: ScriptCall, reply: Any) -> None:
        """Compare what the server had with what was set before. An error reply says nothing."""
        if isinstance(reply, Exception):
            return
        found, run_id, policy = reply
        number = int(call.args[0].rpartition(b":")[2])
        since = self._sent.pop(number, 0)
        lost = since > 0 and not self.is_kept(found, since)
        replaced = bool(self._run_id) and bool(run_id) and run_id != self._run_id
        self.losses += lost or replaced
        self.confirmed = number if lost else max(self.confirmed, number)
        if run_id and run_id != self._run_id:
            self._run_id = run_id
            if policy not in (b"", b"noeviction"):
                name = policy.decode("ascii", "replace")
                log.warning(
                    "store_evicts",
                    "Redis may evict live sessions: set its maxmemory-policy to noeviction, not %s",
                    name,
                )


class Marks:
    """The marks of this host: one on each primary.

    Args:
        key: makes a mark's key from a tag (`ScriptClient.slot_tags`).
    """

    def __init__(self, key: Callable[[bytes], bytes]) -> None:
        self._key = key
        self._marks: dict[bytes, Mark] = {}

    @property
    def losses(self) -> int:
        """How often a server was found to have lost writes."""
        return sum(mark.losses for mark in self._marks.values())

    def of(self, tag: bytes) -> Mark:
        """The mark under a tag."""
        if tag not in self._marks:
            self._marks[tag] = Mark(self._key(tag))
        return self._marks[tag]

    def check(self, tags: Sequence[bytes], calls: Sequence[ScriptCall], replies: Sequence[Any]) -> None:
        """Check the replies to the calls of the marks under these tags."""
        for tag, call, reply in zip(tags, calls, replies, strict=True):
            self.of(tag).check(call, reply)
