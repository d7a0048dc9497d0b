"""Every key of the daemon's configuration: its type, default, unit, range and meaning, and nothing else.

`--help`, systemd/callstate.toml and the messages for wrong values are made from these annotations
(load.py), so a key is described here or nowhere. Each number has an upper bound: it catches milliseconds
given for seconds, and infinity.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints

from msgspec import Meta, Struct, to_builtins

from callstate_sidecar.config.store_url import redact_url

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

DAY_S: Final = 86400
YEAR_S: Final = 365 * DAY_S

# No braces: they would choose a key's slot in a Redis Cluster. No space: the prefix is typed into tools.
_PREFIX_PATTERN: Final = r"^[!-z|~]{1,128}\Z"
_PATH_PATTERN: Final = r"^[^\x00]*\Z"
_HOST_ID_PATTERN: Final = r"^[A-Za-z0-9._-]{0,64}\Z"


def _seconds(meaning: str, low: float, high: float) -> Meta:
    return Meta(description=meaning, ge=low, le=high, extra={"unit": "seconds"})


def _bytes(meaning: str, low: int, high: int) -> Meta:
    return Meta(description=meaning, ge=low, le=high, extra={"unit": "bytes"})


def _count(meaning: str, unit: str, low: int, high: int) -> Meta:
    return Meta(description=meaning, ge=low, le=high, extra={"unit": unit})


def _text(meaning: str, expected: str, pattern: str | None = None) -> Meta:
    return Meta(description=meaning, pattern=pattern, extra={"expected": expected})


class ServerConfig(Struct, frozen=True, kw_only=True):
    """Where the daemon listens and keeps its files."""

    socket: Annotated[
        str,
        _text(
            "Unix socket to listen on, unless systemd passes one. Empty: $XDG_RUNTIME_DIR/callstate.sock, "
            "else /tmp/callstate-<uid>/callstate.sock.",
            "a path of at most 107 bytes, or empty",
            _PATH_PATTERN,
        ),
    ] = ""
    state_dir: Annotated[
        str,
        _text(
            "Directory of the journal, the SQLite file and the host's id. Empty: $STATE_DIRECTORY, else "
            "$XDG_STATE_HOME/callstate, else ~/.local/state/callstate.",
            "a path, or empty",
            _PATH_PATTERN,
        ),
    ] = ""
    shutdown_flush_s: Annotated[
        float,
        _seconds(
            "How long a stop may wait for the store to take what it has not got yet. The journal keeps the rest.",
            0,
            600,
        ),
    ] = 10.0


class JournalConfig(Struct, frozen=True, kw_only=True):
    """What an acknowledgement means on this host."""

    durability: Annotated[
        Literal["memory", "process", "power"],
        Meta(
            description="What an acknowledged write survives. memory: a clean stop only. process: also the "
            "daemon's death at any moment; power loss costs up to sync_interval_s. power: also power loss."
        ),
    ] = "process"
    sync_interval_s: Annotated[
        float,
        _seconds("With durability process: how often the journal is synced to disk.", 0.01, 60),
    ] = 1.0
    checkpoint_min_bytes: Annotated[
        int,
        _bytes("A journal smaller than this is never compacted.", 4 * KIB, TIB),
    ] = 64 * MIB


class StoreConfig(Struct, frozen=True, kw_only=True):
    """The store behind: where sessions are copied to, behind the writes."""

    url: Annotated[
        str,
        _text(
            "Where to. sqlite: is a file in the state directory. A password is better kept in password_file.",
            "sqlite:[PATH], redis://…, rediss://…, unix://… or HOST:PORT",
        ),
    ] = "sqlite:"
    prefix: Annotated[
        str,
        _text(
            "What every key in Redis begins with. The same for all hosts and for the Go package.",
            "1 to 128 characters of printable ASCII, no space, no braces",
            _PREFIX_PATTERN,
        ),
    ] = "voicesession:"
    ttl_s: Annotated[
        float,
        _seconds("How long a session stays in the store after its last write.", 1, 10 * YEAR_S),
    ] = float(DAY_S)
    flush_interval_s: Annotated[
        float,
        _seconds("How long changes gather before they are written to the store.", 0.005, 60),
    ] = 0.2
    batch_sessions: Annotated[
        int,
        _count("At most so many in one batch to the store.", "sessions", 1, 100_000),
    ] = 200
    batch_bytes: Annotated[
        int,
        _bytes(
            "A batch to the store is closed at this size. Packing and sending one takes the loop about 4 µs a KiB.",
            4 * KIB,
            GIB,
        ),
    ] = 256 * KIB
    timeout_s: Annotated[
        float,
        _seconds("After so long without an answer the store counts as down.", 0.05, 60),
    ] = 2.0
    confirm: Annotated[
        Literal["reply", "aof"],
        Meta(
            description="When Redis has a write. reply: when it says so. aof: when its append-only file is on "
            "disk, too (WAITAOF). With journal.durability power it is always aof, and SQLite syncs its file."
        ),
    ] = "reply"
    beat_interval_s: Annotated[
        float,
        _seconds("How often the latest heartbeats are written to the store.", 0.1, 3600),
    ] = 15.0
    password_file: Annotated[
        str,
        _text(
            "File whose first line is the Redis password. Empty: $CREDENTIALS_DIRECTORY/redis-password "
            "where systemd provides it.",
            "a path, or empty",
            _PATH_PATTERN,
        ),
    ] = ""
    max_dirty_bytes: Annotated[
        int,
        _bytes(
            "With more than this waiting for the store, new sessions are refused (overloaded); live ones go on.",
            64 * KIB,
            TIB,
        ),
    ] = GIB

    def __repr__(self) -> str:
        # A configuration ends up in logs and tracebacks; its password must not.
        shown = to_builtins(self) | {"url": redact_url(self.url)}
        return f"StoreConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class ReaperConfig(Struct, frozen=True, kw_only=True):
    """When a call counts as dead, and what happens then."""

    heartbeat_timeout_s: Annotated[
        float,
        _seconds("A session silent for so long is suspect, unless it set a timeout of its own.", 0.1, DAY_S),
    ] = 30.0
    grace_s: Annotated[
        float,
        _seconds("How long a suspect session may still come back before it is ended.", 0, DAY_S),
    ] = 30.0
    reconnect_grace_s: Annotated[
        float,
        _seconds(
            "How long a worker that lives may be without a connection before its sessions are orphans.", 0, DAY_S
        ),
    ] = 5.0
    retention_s: Annotated[
        float,
        _seconds("How long an ended session stays in memory; after that only the store has it.", 0, DAY_S),
    ] = 300.0
    max_handovers: Annotated[
        int,
        _count(
            "A call whose claimers so often died within a minute of their claim is ended as poisoned; 0: none is.",
            "claimers",
            0,
            1_000_000,
        ),
    ] = 3
    tick_s: Annotated[
        float,
        _seconds("How often deadlines are looked at.", 0.005, 10),
    ] = 0.1


class LimitsConfig(Struct, frozen=True, kw_only=True):
    """What one client, one session or all of them may cost."""

    line_bytes: Annotated[
        int,
        _bytes("A longer request line is dropped and answered too_large.", KIB, 64 * MIB),
    ] = MIB
    session_bytes: Annotated[
        int,
        _bytes("A session may grow to this size by turns and updates.", KIB, GIB),
    ] = 8 * MIB
    connections: Annotated[
        int,
        _count("Clients served at once; more are told overloaded.", "connections", 1, 1_000_000),
    ] = 1000
    sessions: Annotated[
        int,
        _count("Sessions held in memory; more are refused as overloaded.", "sessions", 1, 100_000_000),
    ] = 200_000
    events: Annotated[
        int,
        _count(
            "Events kept for subscribers that come back; older ones are told as a gap.", "events", 1, 10_000_000
        ),
    ] = 10_000
    pending_reply_bytes: Annotated[
        int,
        _bytes(
            "A connection with more unsent replies than this is not read from until it takes some.",
            4 * KIB,
            GIB,
        ),
    ] = 8 * MIB


class HostConfig(Struct, frozen=True, kw_only=True):
    """Who this host is among those that share one Redis."""

    id: Annotated[
        str,
        _text(
            "The host's id. Empty: a random one, kept in the state directory.",
            "up to 64 letters, digits, '.', '_' or '-'",
            _HOST_ID_PATTERN,
        ),
    ] = ""


class LogConfig(Struct, frozen=True, kw_only=True):
    """What the daemon says on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least severe lines to write. At info a call costs at most three."),
    ] = "info"
    format: Annotated[
        Literal["text", "json"],
        Meta(description="Lines for people, or one JSON object each."),
    ] = "text"


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration of one daemon. Immutable; made by `load_config`, or by hand in tests."""

    server: ServerConfig = ServerConfig()
    journal: JournalConfig = JournalConfig()
    store: StoreConfig = StoreConfig()
    reaper: ReaperConfig = ReaperConfig()
    limits: LimitsConfig = LimitsConfig()
    host: HostConfig = HostConfig()
    log: LogConfig = LogConfig()


class Option(Struct, frozen=True, kw_only=True):
    """One key, as its annotation describes it.

    Args:
        section: such as `store`.
        name: such as `flush_interval_s`.
        annotation: the annotated type, which `msgspec.convert` holds a value to.
        type: the bare type: str, int, float, or a Literal.
        default: what it is where nobody says anything.
        meta: range, unit and meaning.
    """

    section: str
    name: str
    annotation: Any
    type: Any
    default: str | float
    meta: Meta

    @property
    def key(self) -> str:
        """As in messages and `--set`: `store.flush_interval_s`."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable: `CALLSTATE_STORE_FLUSH_INTERVAL_S`."""
        return f"CALLSTATE_{self.section}_{self.name}".upper()

    @property
    def expected(self) -> str:
        """In words, what may stand there: `seconds, 0.005 to 60`."""
        extra = self.meta.extra or {}
        if "unit" in extra:
            whole = "a whole number of " if self.type is int else ""
            return f"{whole}{extra['unit']}, {_number(self.meta.ge)} to {_number(self.meta.le)}"
        return str(extra.get("expected") or _alternatives(get_args(self.type)))


def _number(value: float | None) -> str:
    return "any" if value is None else f"{value:.15g}"


def _alternatives(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _section_options(section: str, struct: type[Struct]) -> Iterator[Option]:
    default = struct()
    for name, annotation in get_type_hints(struct, include_extras=True).items():
        bare, meta = get_args(annotation)
        yield Option(
            section=section,
            name=name,
            annotation=annotation,
            type=bare,
            default=getattr(default, name),
            meta=meta,
        )


SECTIONS: Final[dict[str, type[Struct]]] = get_type_hints(Config)
"""The section's name to its struct, in the order of the reference file."""

OPTIONS: Final[dict[str, Option]] = {
    option.key: option for section, struct in SECTIONS.items() for option in _section_options(section, struct)
}
"""Every key, as `section.name`."""
