"""Whether a worker has a call: held at first, and then one or more of three things.

`ended`: this worker has ended the call; late turns are still taken. It is reset if the daemon refuses the end.
`released`: its block was left, or `release()` called. `lost`: the session takes nothing more from this worker, as
another has claimed it, it has ended, or it was deleted.

Released and lost are final, and set one event, which `wait_lost()` and `cancel_on_lost` wait for. A call that was
released can become lost as well, which tells its block if that is still running.
"""

from __future__ import annotations

from callstate_client.calls.task import CancelOnLost, OneShotEvent
from callstate_client.errors import CallstateError

__all__ = ["Tenure"]


class Tenure:
    """The tenure of one call."""

    __slots__ = ("_over", "ended", "lost", "released")

    def __init__(self) -> None:
        self.ended = False
        self.released = False
        self.lost: CallstateError | None = None
        self._over = OneShotEvent()

    @property
    def is_held(self) -> bool:
        """Whether it has not ended, and was neither released nor lost."""
        return not (self.ended or self.released or self.lost)

    def lose(self, error: CallstateError) -> None:
        """The call is lost. If it was before, the first error stays."""
        self.lost = self.lost or error
        self._over.set()

    def release(self) -> None:
        """The call was released, which does not cancel its block."""
        self.released = True
        self._over.set(cancel=False)

    async def wait_over(self) -> None:
        """Return once the call is lost or released."""
        await self._over.wait()

    def cancel_current_task(self) -> CancelOnLost:
        """Cancel the current task once the call is lost."""
        return self._over.cancel_current_task()
