"""What `callstate top` shows, as rich text: the figures, the lines of the list, the head of a call. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from callstate_client.cli.output import printable
from callstate_client.cli.render.text import STATUS_STYLES, duration_text, masked
from callstate_client.cli.top.feed import Feed
from callstate_client.cli.top.sessions import ENDED, LIVE, ORPHAN, SUSPECT, Call
from callstate_client.cli.top.sparkline import sparkline
from callstate_client.model.times import parse_time
from callstate_client.store import Record

CURVE_CELLS: Final = 16
"""Width of a sparkline."""

GROUPS: Final = 6
"""The most providers or workers named; the rest is a sum."""

_STATE_STYLES: Final = {LIVE: "green", SUSPECT: "bold yellow", ORPHAN: "bold magenta", ENDED: "dim"}


# -- the figures ----------------------------------------------------------------------------------------------


def figures_text(feed: Feed, at: datetime, now_s: float) -> Text:
    """All figures of the daemon, a line for each group of them.

    Args:
        feed: what is known.
        at: the current time.
        now_s: the same, on the feed's clock, monotonic seconds.
    """
    figures = feed.figures
    lines = [_daemon(feed, at, now_s)]
    if figures.stats:
        lines += [_calls(feed), _rates(feed), _delays(feed), _store(feed), _reaper(feed), _groups(feed)]
    text = Text("\n").join(lines)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _daemon(feed: Feed, at: datetime, now_s: float) -> Text:
    line = Text().append("callstated", style="bold")
    if not feed.info:
        return line.append("  connecting", style="dim")
    if version := feed.info.get("version"):
        line.append(f" {version}", style="bold")
    if started_at := feed.info.get("started_at"):
        line.append(f"  up {duration_text(at - parse_time(started_at))}", style="dim")
    for name, member in (("host", "host_id"), ("durability", "durability")):
        if value := feed.info.get(member):
            line.append(f"  {name} {value}", style="dim")
    if feed.figures.stats.get("draining"):
        line.append("  draining: new calls are refused", style="bold yellow")
    if feed.problem:
        since = f" for {now_s - feed.answered_at_s:.0f} s" if feed.answered_at_s else ""
        line.append(f"  no answer{since}; trying again", style="bold red reverse")
    return line


def _calls(feed: Feed) -> Text:
    figures = feed.figures
    suspects, orphans = figures.count("suspects"), figures.count("orphans")
    live = max(0, figures.not_ended - suspects - orphans)
    line = _label("calls")
    for count, state in ((live, LIVE), (suspects, SUSPECT), (orphans, ORPHAN), (figures.ended, ENDED)):
        line.append(f"{count} {state}", style=_STATE_STYLES[state] if count else "dim").append("  ")
    statuses = {name: count for name, count in figures.stats.get("sessions", {}).items() if name != ENDED}
    named = ", ".join(f"{count} {printable(name) or 'no status'}" for name, count in sorted(statuses.items()))
    return line.append(f"({named})" if named else "", style="dim")


def _rates(feed: Feed) -> Text:
    line = _label("rates")
    _curve(line, feed, "turns", "turns", "/s")
    _curve(line, feed, "requests", "requests", "/s")
    return line.append(f"{feed.figures.count('connections')} connections, {feed.figures.count('workers')} workers")


def _delays(feed: Feed) -> Text:
    line = _label("delays")
    _curve(line, feed, "round_trip_ms", "ping", " ms")
    _curve(line, feed, "loop_lag_ms", "loop lag", " ms")
    return line


def _store(feed: Feed) -> Text:
    figures, stats = feed.figures, feed.figures.stats
    line = _label("store")
    store = stats.get("store", "up")
    line.append(f"{feed.info.get('store', '')} {store}", style="green" if store == "up" else "bold red")
    line.append(f"  {figures.count('dirty')} dirty, {size_text(figures.count('dirty_bytes'))}")
    _curve(line.append(", "), feed, "oldest_dirty_s", "oldest", " s")
    if quarantined := figures.count("quarantined"):
        line.append(f"{quarantined} in quarantine  ", style="bold red")
    journal = stats.get("journal", "ok")
    line.append("journal ", style="bold").append(journal, style="green" if journal == "ok" else "bold red")
    line.append(f" {size_text(figures.count('journal_bytes'))}, {figures.count('journal_unsynced')} unsynced")
    if error := stats.get("store_error"):
        line.append(f"  {printable(error)}", style="red")
    return line


def _reaper(feed: Feed) -> Text:
    line = _label("reaper")
    for name, style in (("suspected", "yellow"), ("reaped", "red")):
        count = feed.figures.count(name)
        line.append(f"{count} {name}", style=style if count else "dim")
        reasons = ", ".join(f"{printable(why)} {n}" for why, n in feed.figures.reasons(f"{name}_by_reason"))
        line.append(f" ({reasons})  " if reasons else "  ")
    return line


def _groups(feed: Feed) -> Text:
    line = _label("by")
    for name, counts in (
        ("provider", feed.calls.by(lambda call: call.provider)),
        ("worker", feed.calls.by(lambda call: call.owner)),
    ):
        shown = [f"{printable(value) or 'none'} {count}" for value, count in counts[:GROUPS]]
        rest = sum(count for _, count in counts[GROUPS:])
        line.append(f"{name} ", style="bold").append(", ".join(shown) or "none")
        line.append(f", {len(counts) - GROUPS} others {rest}" if rest else "").append("  ")
    return line


def _label(name: str) -> Text:
    return Text().append(f"{name:<7}", style="bold cyan")


def _curve(line: Text, feed: Feed, curve: str, name: str, unit: str) -> None:
    """A figure with its curve."""
    latest = feed.figures.latest(curve)
    value = "?" if latest is None else f"{latest:.2f}" if latest < 10 else f"{latest:.0f}"
    line.append(f"{name} ").append(f"{value:>4}{unit} ", style="bold")
    line.append(sparkline(feed.figures.curves[curve], CURVE_CELLS), style="cyan").append("  ")


def size_text(size_bytes: int) -> str:
    """A size, with a unit that suits it."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


# -- the list ---------------------------------------------------------------------------------------------------

# Name, width (0: what is left), aligned to the right. What does not fit is left out, least needed first.
_COLUMNS: Final = (
    ("ID", 0, False),
    ("STATE", 8, False),
    ("STATUS", 17, False),
    ("OWNER", 12, False),
    ("PROVIDER", 9, False),
    ("FROM", 7, False),
    ("TO", 7, False),
    ("TURNS", 5, True),
    ("AGE", 6, True),
    ("SIGN", 6, True),
)
_DROPPED_FIRST: Final = ("TO", "FROM", "STATUS", "PROVIDER", "AGE", "OWNER")
NUMBER_CELLS: Final = 16
"""Width of a phone number that is shown in full."""


class Columns:
    """The columns that fit a width.

    Args:
        width: of the list, in cells.
        id_cells: the longest id's: ids are shown whole if that leaves the columns that are needed most.
        show_numbers: phone numbers are shown in full.
    """

    def __init__(self, width: int, id_cells: int, *, show_numbers: bool) -> None:
        self.show_numbers = show_numbers
        self.widths = {name: cells for name, cells, _ in _COLUMNS}
        if show_numbers:
            self.widths |= {"FROM": NUMBER_CELLS, "TO": NUMBER_CELLS}
        self.widths["ID"] = max(id_cells, 2)
        for name in _DROPPED_FIRST:
            if self._needed() <= width:
                break
            del self.widths[name]
        self.widths["ID"] -= max(0, self._needed() - width)
        self.widths["ID"] = max(self.widths["ID"], 2)
        if "OWNER" in self.widths:  # what is left over
            self.widths["OWNER"] += min(24, max(0, width - self._needed()))

    def _needed(self) -> int:
        return sum(self.widths.values()) + 2 * (len(self.widths) - 1)

    def heading(self) -> Text:
        """The names of the columns."""
        return self._line(dict(zip(self.widths, self.widths, strict=True)), {}, "bold")

    def line(self, call: Call, at: datetime) -> Text:
        """One call."""
        numbers = printable if self.show_numbers else masked
        cells = {
            "ID": printable(call.id),
            "STATE": call.state + ("*" if call.restored else ""),
            "STATUS": printable(call.reason or call.status),
            "OWNER": printable(call.owner),
            "PROVIDER": printable(call.provider),
            "FROM": numbers(call.from_),
            "TO": numbers(call.to),
            "TURNS": str(call.turns),
            "AGE": duration_text(at - call.created_at),
            "SIGN": duration_text(at - call.updated_at),
        }
        styles = {"STATE": _STATE_STYLES[call.state], "STATUS": STATUS_STYLES.get(call.status, "")}
        return self._line(cells, styles, "dim" if call.state == ENDED else "")

    def _line(self, cells: dict[str, str], styles: dict[str, str], style: str) -> Text:
        line = Text(style=style, no_wrap=True, end="")
        for name, _, right in _COLUMNS:
            if name in self.widths:
                width = self.widths[name]
                text = _fitted(cells[name], width)
                padded = " " * (width - cell_len(text)) + text if right else set_cell_size(text, width)
                line.append(padded, style=styles.get(name, "")).append("  ")
        line.right_crop(2)
        return line


def _fitted(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


# -- one call ---------------------------------------------------------------------------------------------------


def head_text(record: Record, at: datetime, *, show_numbers: bool) -> Text:
    """What is known of one call besides its transcript, in a few lines."""
    state = record.state
    numbers = printable if show_numbers else masked
    text = Text().append(printable(state.id), style="bold")
    reason = f" ({printable(record.ended_reason)})" if record.ended_reason else ""
    text.append(f"  {printable(state.status)}{reason}", style=STATUS_STYLES.get(state.status, ""))
    text.append("" if record.owner is None else f"  held by {printable(record.owner)}", style="")
    facts = {
        "provider": printable(state.provider),
        "call": printable(state.call_id),
        "direction": printable(state.direction),
        "from": numbers(state.from_),
        "to": numbers(state.to),
        "age": duration_text(at - state.created_at),
        "last sign": f"{duration_text(at - state.updated_at)} ago",
        "turns": str(record.turn_count),
        "interruptions": str(state.metrics.interruption_count or ""),
        **{printable(name): printable(value) for name, value in sorted(record.labels.items())},
    }
    return _facts(text.append("\n"), facts)


def _facts(text: Text, facts: dict[str, str]) -> Text:
    pairs = [(name, value) for name, value in facts.items() if value]
    for name, value in pairs:
        text.append(f"{name} ", style="dim").append(value).append("  ")
    return text


def list_title(shown: Sequence[Call], known: int, *, states: str, sort: str, text: str, full: bool) -> str:
    """What the list has of all calls, and how it is ordered."""
    some = f"{len(shown)} of {known}" if len(shown) != known else str(known)
    return f"{some} calls{' (and more)' if full else ''}: {states}, by {sort}" + (
        f", with “{text}”" if text else ""
    )
