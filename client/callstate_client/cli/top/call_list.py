"""The list of calls as a widget: it renders the lines on the screen and no others, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events  # pyright: ignore[reportMissingImports]
from textual.binding import Binding, BindingType  # pyright: ignore[reportMissingImports]
from textual.message import Message  # pyright: ignore[reportMissingImports]
from textual.widget import Widget  # pyright: ignore[reportMissingImports]

from callstate_client.cli.top.sessions import Call
from callstate_client.cli.top.view import Columns

HEADING_LINES = 1


class CallList(Widget):
    """Calls, a line each, one of them under the cursor. The cursor stays on its call when the order changes.

    Args:
        show_numbers: show phone numbers in full.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "move(-1000000000)", "First", show=False),
        Binding("end,G", "move(1000000000)", "Last", show=False),
    ]

    class Changed(Message):
        """Other calls may be on the screen."""

    class Moved(Message):
        """The cursor was moved to another call, by a key or the mouse."""

    class Chosen(Message):
        """A call was clicked twice."""

    def __init__(self, *, show_numbers: bool) -> None:
        super().__init__(id="calls")
        self.can_focus = True
        self._show_numbers = show_numbers
        self._calls: Sequence[Call] = ()
        self._at: datetime | None = None
        self._first = 0
        self._place = 0
        self.current: str | None = None
        """The id of the call under the cursor."""

    @property
    def calls_on_screen(self) -> Sequence[Call]:
        """The calls on the screen."""
        return self._calls[self._first : self._first + self._lines]

    @property
    def _lines(self) -> int:
        return max(1, int(self.size.height) - HEADING_LINES)

    def update(self, calls: Sequence[Call], at: datetime) -> None:
        """Show these calls, as of this time."""
        self._calls, self._at = calls, at
        found = next((place for place, call in enumerate(calls) if call.id == self.current), None)
        self._move_to(self._place if found is None else found)

    def _move_to(self, place: int) -> None:
        self._place = max(0, min(place, len(self._calls) - 1))
        self.current = self._calls[self._place].id if self._calls else None
        lowest = max(0, len(self._calls) - self._lines)
        self._first = min(lowest, max(self._place - self._lines + 1, min(self._first, self._place)))
        self.refresh()
        self.post_message(self.Changed())

    def _go_to(self, place: int) -> None:
        self._move_to(place)
        self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        """Move the cursor."""
        self._go_to(self._place + by)

    def action_page(self, direction: int) -> None:
        """Move the cursor by a screen."""
        self._go_to(self._place + direction * self._lines)

    def on_resize(self) -> None:
        """Keep the cursor on the screen."""
        self._move_to(self._place)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel moves the cursor."""
        event.stop()
        self._go_to(self._place + 3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel moves the cursor."""
        event.stop()
        self._go_to(self._place - 3)

    def on_click(self, event: events.Click) -> None:
        """A click moves the cursor; a second one opens the call."""
        place = self._first + event.y - HEADING_LINES
        if event.y >= HEADING_LINES and place < len(self._calls):
            self._go_to(place)
            if event.chain == 2:
                self.post_message(self.Chosen())

    def render(self) -> Text:
        """The heading, and a line for each call on the screen."""
        shown = self.calls_on_screen
        longest = max((cell_len(call.id) for call in shown), default=0)
        columns = Columns(self.size.width, longest, show_numbers=self._show_numbers)
        lines = [columns.heading()]
        for place, call in enumerate(shown, start=self._first):
            line = columns.line(call, self._at or call.updated_at)
            lines.append(Text(line.plain, style="reverse") if place == self._place else line)
        return Text("\n", no_wrap=True).join(lines)
