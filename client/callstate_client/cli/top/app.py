"""The application behind `callstate top`: it draws what the feed knows, and does what keys ask for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from textual.app import App, ComposeResult  # pyright: ignore[reportMissingImports]
from textual.binding import Binding, BindingType  # pyright: ignore[reportMissingImports]
from textual.containers import Container  # pyright: ignore[reportMissingImports]
from textual.widgets import Footer, Input, Static  # pyright: ignore[reportMissingImports]

from callstate_client.api import CallStore
from callstate_client.cli.top.call_list import CallList
from callstate_client.cli.top.call_pane import CallPane
from callstate_client.cli.top.dialogs import EndDialog, HelpDialog
from callstate_client.cli.top.feed import Feed
from callstate_client.cli.top.sessions import ENDED, LIVE, NOT_ENDED, ORPHAN, SORTS, SUSPECT, Call
from callstate_client.cli.top.transcript import Transcript
from callstate_client.cli.top.view import figures_text, list_title
from callstate_client.errors import CallstateError
from callstate_client.model.times import now

REDRAW_S: Final = 0.1
"""Changes are drawn this often at most, seconds: a thousand events a second are no reason for as many screens."""

END_REASON: Final = "operator"

STATES: Final[Mapping[str, Sequence[str]]] = {
    "not ended": NOT_ENDED,
    "live": (LIVE,),
    "suspect": (SUSPECT,),
    "orphan": (ORPHAN,),
    "ended": (ENDED,),
    "all": (*NOT_ENDED, ENDED),
}
"""What the list can be restricted to, by name, in the order in which `f` goes through them."""


class TopApp(App[None]):
    """A live view of the calls of one daemon.

    Args:
        store: connected to the daemon, and owns nothing.
        interval_s: seconds between two looks at the daemon.
        show_numbers: show phone numbers in full, and not their last two digits.
    """

    CSS_PATH = "top.tcss"
    TITLE = "callstate top"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (140, "-wide")]  # noqa: RUF012 - as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open"),
        Binding("slash", "filter", "Filter", priority=True),  # else keys that come with it are lost
        Binding("f", "states", "Which"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("e", "end", "End"),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c,ctrl+q", "quit", "Quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "Suspend", show=False),
        Binding("escape", "close", "Close", show=False),
    ]

    def __init__(self, store: CallStore, *, interval_s: float, show_numbers: bool = False) -> None:
        # by itself Textual replaces colours with greys
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self._store = store
        self.feed = Feed(store, interval_s, time.monotonic, self._has_changed)
        self._changed = True
        self._drawn_second = 0
        self._which = "not ended"
        self._sort = next(iter(SORTS))
        self._reverse = False
        self._text = ""
        self._figures = Static(id="figures", markup=False)
        self._list_title = Static(id="title", markup=False)
        self._list = CallList(show_numbers=show_numbers)
        self._pane = CallPane(store, interval_s, self._turn_rate, show_numbers=show_numbers)
        self._filter = Input(placeholder="words of an id, provider, owner, status, label=value", id="filter")

    @property
    def opened(self) -> Transcript | None:
        """The call in the pane."""
        return self._pane.transcript

    def _turn_rate(self) -> float:
        return self.feed.figures.latest("turns") or 0.0

    # -- drawing ------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Figures above, the list and the pane of a call, the filter, the keys."""
        yield self._figures
        yield self._list_title
        with Container(id="body"):
            yield self._list
            yield self._pane
        yield self._filter
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look at the daemon."""
        self._filter.display = False
        self._list.focus()
        self.run_worker(self.feed.run())
        self.run_worker(self.feed.follow())
        self.set_interval(REDRAW_S, self._redraw)

    def _has_changed(self) -> None:
        self._changed = True

    def _redraw(self) -> None:
        """Draw if anything has changed, and once a second because ages do."""
        second = int(time.monotonic())
        if self._changed or second != self._drawn_second:
            self._changed, self._drawn_second = False, second
            self._draw()

    def _draw(self) -> None:
        at, calls = now(), self._selected()
        self._figures.update(figures_text(self.feed, at, time.monotonic()))
        known = sum(call.state in STATES[self._which] for call in self.feed.calls.calls.values())
        order = self._sort + (" reversed" if self._reverse else "")
        self._list_title.update(
            list_title(calls, known, states=self._which, sort=order, text=self._text, full=self.feed.calls.full)
        )
        self._list.update(calls, at)
        self._pane.draw(at)

    def _selected(self) -> list[Call]:
        return self.feed.calls.select(
            states=STATES[self._which], text=self._text, sort=self._sort, reverse=self._reverse
        )

    def on_call_list_changed(self) -> None:
        """The calls on the screen are kept fresh."""
        self.feed.shown = [call.id for call in self._list.calls_on_screen]

    def on_call_list_moved(self) -> None:
        """An open pane follows the cursor; it stays with its call when that ends and leaves the list."""
        if self._pane.display and self._list.current is not None:
            self._pane.show(self._list.current)

    def on_call_list_chosen(self) -> None:
        """A call was clicked twice."""
        self.action_open()

    # -- keys -----------------------------------------------------------------------------------------------------

    def action_open(self) -> None:
        """Open the call under the cursor."""
        if self._list.current is not None:
            self._pane.show(self._list.current)

    def action_close(self) -> None:
        """Close the pane; else clear the filter."""
        if self._pane.display:
            self._pane.close()
            self._list.focus()
        else:
            self._filter.value = ""

    def action_filter(self) -> None:
        """Ask for the words of the filter."""
        if self.focused is self._filter:
            self._filter.insert_text_at_cursor("/")
            return
        self._filter.display = True
        self.screen.set_focus(self._filter)  # at once, unlike `focus()`: the next keys are words of the filter

    def on_input_changed(self, event: Input.Changed) -> None:
        """The list follows the words as they are typed."""
        self._text = event.value.strip()
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the list; the filter stays."""
        self._filter.display = bool(event.value.strip())
        self.screen.set_focus(self._list)

    def action_states(self) -> None:
        """Show calls in other states."""
        names = [*STATES]
        self._which = names[(names.index(self._which) + 1) % len(names)]
        self.feed.want(STATES[self._which])
        self._draw()

    def action_sort(self) -> None:
        """Sort by the next column."""
        names = [*SORTS]
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self._draw()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._reverse = not self._reverse
        self._draw()

    def action_help(self) -> None:
        """Show the keys, and what the figures mean."""
        self.push_screen(HelpDialog())

    def action_end(self) -> None:
        """Ask whether the call under the cursor is to be ended, and end it."""
        call = self.feed.calls.calls.get(self._list.current or "")
        if call is None or call.state == ENDED:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.run_worker(self._end(call.id))

        self.push_screen(EndDialog(call.id, call.owner), answered)

    async def _end(self, session_id: str) -> None:
        try:
            await self._store.end(session_id, END_REASON)
        except CallstateError as error:
            self.notify(str(error), title=f"{session_id} was not ended", severity="error", markup=False)
        else:
            self.notify(f"{session_id} ended", markup=False)
