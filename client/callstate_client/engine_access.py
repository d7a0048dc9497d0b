"""Who may do what to a session of a MemoryStore, and whose doing is a sign of life."""

from __future__ import annotations

from callstate_client.engine_kept import Kept
from callstate_client.engine_workers import Caller
from callstate_client.errors import FencedError, ForbiddenError, InvalidParamsError
from callstate_client.protocol import ids
from callstate_client.shelf import Shelf


class Access:
    """The rules of ownership, for one view.

    Args:
        shelf: the sessions.
        caller: the view.
    """

    def __init__(self, shelf: Shelf, caller: Caller) -> None:
        self._shelf = shelf
        self._caller = caller

    def _check_epoch(self, kept: Kept, epoch: int | None) -> None:
        """Nobody changes a session with an epoch that is not its own.

        Raises:
            FencedError: that is the case.
        """
        if epoch is not None and epoch != kept.epoch:
            raise self._fenced(kept, f"the session's epoch is {kept.epoch}")

    def _check_held(self, kept: Kept, epoch: int | None) -> None:
        """The same; and no worker changes another's.

        Raises:
            FencedError: that is the case.
        """
        self._check_epoch(kept, epoch)
        if self._is_anothers(kept):
            raise self._fenced(kept, f"the session is held by {kept.owner}")

    def _check_writable(self, kept: Kept, epoch: int | None) -> None:
        """The same; and what was reaped takes nothing more, while what a worker ended still does.

        Raises:
            FencedError, SessionEndedError: it can't be changed.
        """
        self._check_held(kept, epoch)
        if kept.reaped:
            raise kept.ended_error()

    def _is_anothers(self, kept: Kept) -> bool:
        """Whether it is held by a worker that is not this one, or by another instance of this one that is there as
        well. To an operator nothing is another's."""
        worker_id, ours = self._caller.worker_id, self._caller.instance
        if worker_id is None or not kept.owner:
            return False
        if kept.owner != worker_id:
            return True
        return (
            bool(ours and kept.instance)
            and ours != kept.instance
            and self._shelf.workers.is_connected(worker_id, kept.instance)
        )

    def _is_life(self, kept: Kept, epoch: int | None) -> bool:
        """Whether a mutation is a sign of life: an operator's is none where a worker holds the session."""
        return kept.owner in ("", self._caller.worker_id) or epoch == kept.epoch

    def _speaks_for(self, kept: Kept) -> bool:
        """Whether a beat is a sign of life: an operator's is only while the owner is not here to beat itself."""
        if kept.owner in ("", self._caller.worker_id):
            return True
        return self._caller.worker_id is None and not self._shelf.workers.is_connected(kept.owner)

    def _note_retimed(self, kept: Kept, before_s: float) -> None:
        """The caller has been told the timeout in force, and may have changed it: an owner that is another goes by
        the one before until it is told."""
        caller = self._caller
        if not kept.owner or (kept.owner == caller.worker_id and kept.instance == caller.instance):
            kept.known_timeout_s = None
        elif kept.known_timeout_s is None and kept.heartbeat_timeout_s != before_s:
            kept.known_timeout_s = before_s

    def _fenced(self, kept: Kept, text: str) -> FencedError:
        self._shelf.refused(kept, self._caller)
        return FencedError(text, epoch=kept.epoch, owner=kept.owner or None)

    def _check_worker(self, worker_id: str) -> None:
        """A worker acts for itself; who is no worker may act for any.

        Raises:
            InvalidParamsError: it is no worker id.
            ForbiddenError: it is another's.
        """
        if not ids.is_worker_id(worker_id):
            path, expected = "$.params.worker_id", ids.WORKER_ID_RULE
            raise InvalidParamsError(
                f"not a worker id at {path}: expected {expected}", path=path, expected=expected
            )
        if self._caller.worker_id not in (None, worker_id):
            raise ForbiddenError(f"this connection is registered as {self._caller.worker_id}")
