"""The dialogs of `callstate top`: the help, and the question before a call is ended."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult  # pyright: ignore[reportMissingImports]
from textual.binding import BindingType  # pyright: ignore[reportMissingImports]
from textual.containers import VerticalScroll  # pyright: ignore[reportMissingImports]
from textual.screen import ModalScreen  # pyright: ignore[reportMissingImports]
from textual.widgets import Static  # pyright: ignore[reportMissingImports]

from callstate_client.cli.output import printable

HELP: Final = """\
↑ ↓ PgUp PgDn Home End   move; so do j k g G, wheel and click
Enter   open the call under the cursor; the pane follows it until Esc
Tab     from the list to the transcript, and back
/       only calls with these words in id, call id, provider, owner,
        status or labels; Esc clears it
f       which calls: not ended, live, suspect, orphan, ended, all
s, r    sort by the next column; reverse the order
e       end the call under the cursor, after a question
q       leave, as Ctrl-C does

turns      requests a second that add turns; one may add several
requests   a second, of all clients, without those that only look
ping       from here to the daemon and back
loop lag   how late the daemon's last tick was
dirty      sessions that the store does not have as they are now;
           oldest: for how long
suspect    silent for its timeout, or its process has exited
orphan     a call whose owner has left or released it
*          restored by a restart, with no sign of life since
SIGN       since the last change or heartbeat

The list is read a page of 300 at each interval; in between, events
tell what changes."""


class HelpDialog(ModalScreen[None]):
    """The keys, and what the figures mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,question_mark,q,enter", "app.pop_screen", "Close"),
        ("ctrl+c", "app.quit", "Quit"),
    ]

    def compose(self) -> ComposeResult:
        """The text."""
        with VerticalScroll(classes="dialog"):
            yield Static(HELP, markup=False)


class EndDialog(ModalScreen[bool]):
    """Asks whether a call is to be ended.

    Args:
        session_id: which.
        owner: who holds it; empty for nobody.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "dismiss(True)", "End the call"),
        ("n,escape,q", "dismiss(False)", "Leave it"),
        ("ctrl+c", "app.quit", "Quit"),
    ]

    def __init__(self, session_id: str, owner: str) -> None:
        super().__init__()
        self._session_id = session_id
        self._owner = owner

    def compose(self) -> ComposeResult:
        """The question."""
        text = Text("End the call ").append(printable(self._session_id), style="bold").append("?\n\n")
        holder = f"Its worker {printable(self._owner)} loses it" if self._owner else "Nobody holds it"
        text.append(f"{holder}; the reason will be “operator”.\n\n")
        with VerticalScroll(classes="dialog"):
            yield Static(
                text.append("y", style="bold").append(" end it   ").append("n", style="bold").append(" leave it")
            )
