"""The pane of one call as a widget: its head, and its transcript, which is scrolled along as it grows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from textual.app import ComposeResult  # pyright: ignore[reportMissingImports]
from textual.containers import Vertical, VerticalScroll  # pyright: ignore[reportMissingImports]
from textual.widgets import Static  # pyright: ignore[reportMissingImports]
from textual.worker import Worker  # pyright: ignore[reportMissingImports]

from callstate_client.api import CallStore
from callstate_client.cli.output import printable
from callstate_client.cli.render.conversation import transcript_table
from callstate_client.cli.top.transcript import Transcript
from callstate_client.cli.top.view import head_text


class CallPane(Vertical):
    """One call, or none, when it is not displayed.

    Args:
        store: connected to the daemon.
        interval_s: seconds between two readings of the call, unless it has a turn earlier.
        turn_rate: turns a second of the whole daemon.
        show_numbers: show phone numbers in full.
    """

    def __init__(
        self, store: CallStore, interval_s: float, turn_rate: Callable[[], float], *, show_numbers: bool
    ) -> None:
        super().__init__(id="pane")
        self._store = store
        self._interval_s = interval_s
        self._turn_rate = turn_rate
        self._show_numbers = show_numbers
        self._following: Worker[None] | None = None
        self._changed = False
        # Kept here: the timer that draws may fire once more when the application ends and has taken them away.
        self._head = Static(id="head", markup=False)
        self._turns = Static(id="turns", markup=False)
        self.transcript: Transcript | None = None
        """The call that is shown."""

    def compose(self) -> ComposeResult:
        """The head above the transcript."""
        yield self._head
        with VerticalScroll(id="transcript"):
            yield self._turns

    def on_mount(self) -> None:
        """There is no call at first."""
        self.display = False

    def show(self, session_id: str) -> None:
        """Show this call, and what is added to it."""
        if self.transcript is not None and self.transcript.session_id == session_id:
            return
        self.close()
        self.display = True
        self.transcript = Transcript(session_id)
        self._turns.update("")
        self.query_one("#transcript", VerticalScroll).anchor()  # at its end, unless somebody scrolls back
        self._head.update(printable(session_id))
        self._following = self.run_worker(
            self.transcript.follow(self._store, self._interval_s, self._has_changed, self._turn_rate)
        )

    def close(self) -> None:
        """Show no call."""
        if self._following is not None:
            self._following.cancel()
        self.transcript = self._following = None
        self.display = False

    def _has_changed(self) -> None:
        self._changed = True

    def draw(self, at: datetime) -> None:
        """Draw what is known of the call, as of this time."""
        transcript = self.transcript
        if transcript is None:
            return
        if transcript.record is not None:
            self._head.update(head_text(transcript.record, at, show_numbers=self._show_numbers))
        elif transcript.problem:
            self._head.update(f"{printable(transcript.session_id)}: {transcript.problem}")
        if self._changed:
            self._changed = False
            self._draw_turns(transcript)

    def _draw_turns(self, transcript: Transcript) -> None:
        turns = transcript.turns
        self._turns.update(transcript_table([*turns.values()], min(turns, default=0)))
