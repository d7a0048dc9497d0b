"""Claims across hosts: the store is asked to give a session to this host, then the claim runs here.

Whether the claim may succeed is the engine's to say, from what the store has (verbs/ownership.py). The store
decides again, atomically with the change, by what it has then. Requests for the same session wait meanwhile, in
order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from callstate_client.engine.interfaces import NotOurs
from callstate_client.engine.rules import handoff
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoreError, StoreRefusingError
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.read_through import ReadThrough, in_time
from callstate_sidecar.serving.resumed import Requester
from callstate_sidecar.slices import in_turns
from callstate_sidecar.stores.hosts import HostRegistry, Take, TakeOutcome

log = EventLog(__name__)


class Takeovers:
    """Takes sessions over that a worker of this host claims.

    Args:
        registry: the hosts of the store.
        read_through: holds back other requests for the session meanwhile.
        check: raises StoreError while the store is known to be down.
        host_id: this host.
        in_doubt: gets the sessions that the store has given to this host, or may have without a reply.
        metrics: counts the sessions taken.
    """

    def __init__(
        self,
        registry: HostRegistry,
        read_through: ReadThrough,
        check: Callable[[], None],
        host_id: str,
        in_doubt: set[str],
        metrics: Metrics,
    ) -> None:
        self._registry = registry
        self._read_through = read_through
        self._check = check
        self._host_id = host_id
        self._in_doubt = in_doubt
        self._metrics = metrics

    def when_taken(self, theirs: NotOurs, then: Callable[[], None], requester: Requester | None = None) -> None:
        """Call `then` once the store has given the session to this host, or has said why not; `requester` as with
        `ReadThrough.when_known`."""
        self._read_through.ask(theirs.session_id, partial(self._find, theirs), then, requester)

    async def _find(self, theirs: NotOurs) -> Session | None:
        """The session as this host's, or as the store has it by now.

        Raises:
            StoreError: the store can't say.
            FoundUnreadableError: its document can't be read.
        """
        self._check()
        session_id = theirs.session_id
        take = Take(session_id, theirs.host, theirs.epoch, theirs.owner, theirs.force, theirs.revive)
        try:
            (taken,) = await in_time(self._registry.take([take]))
        except StoreError:
            self._in_doubt.add(session_id)
            raise
        if taken.outcome is TakeOutcome.TAKEN and taken.stored is not None:
            self._in_doubt.add(session_id)  # there may be no room for it any more
            self._metrics.count("sessions_taken")
            log.info(
                "session_taken_over", "session %s was taken over from host %s: %s", session_id, theirs.host,
                theirs.why, session_id=session_id, host=theirs.host,
            )  # fmt: skip
            return await in_turns(handoff.take_over(session_id, taken.stored, self._host_id, theirs.why))
        session = await self._read_through.read(session_id)
        if session is not None and (session.host, session.facts.epoch, session.state) == theirs.seen:
            raise StoreRefusingError(f"it does not give up session {session_id}: meta and document disagree")
        return session
