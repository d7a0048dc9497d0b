"""The keys of the daemon's configuration: type, default, unit, range and meaning of each.

`--help`, systemd/callstate.toml and the messages for wrong values are generated from these annotations, so this is
the only place that describes a key. Every number has an upper bound, which catches milliseconds given for seconds,
and infinity.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, to_builtins

from callstate_sidecar.config.store_url import redact_url

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

DAY_S: Final = 86400
YEAR_S: Final = 365 * DAY_S

# No braces: they would determine a key's slot in a Redis Cluster. No spaces: the prefix is typed into tools.
_PREFIX_PATTERN: Final = r"^[!-z|~]{1,128}\Z"
_PATH_PATTERN: Final = r"^[^\x00]*\Z"
_LIST_PATTERN: Final = r"^[^\x00-\x1f\x7f]*\Z"
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
    """Where the daemon listens and stores its files."""

    socket: Annotated[
        str,
        _text(
            "Unix socket to listen on, unless systemd passes one. If empty: $XDG_RUNTIME_DIR/callstate.sock, "
            "else /tmp/callstate-<uid>/callstate.sock.",
            "a path of at most 107 bytes, or empty",
            _PATH_PATTERN,
        ),
    ] = ""
    state_dir: Annotated[
        str,
        _text(
            "Directory of the journal, the SQLite file and the host's id. If empty: $STATE_DIRECTORY, else "
            "$XDG_STATE_HOME/callstate, else ~/.local/state/callstate.",
            "a path, or empty",
            _PATH_PATTERN,
        ),
    ] = ""
    strict_modes: Annotated[
        bool,
        _text(
            "Refuse a state or socket directory in which other users could replace files: one that they own or may "
            "write to, or that has such a parent. Set it to false only where nobody else has access, as in a pod.",
            "true or false",
        ),
    ] = True
    core_dumps: Annotated[
        bool,
        _text(
            "Allow core dumps, and debuggers run by the daemon's own user. A core dump writes every call to disk.",
            "true or false",
        ),
    ] = False
    shutdown_flush_s: Annotated[
        float,
        _seconds(
            "How long the daemon, when stopped, goes on writing changes to the store. The journal keeps the rest.",
            0,
            600,
        ),
    ] = 10.0
    slow_turn_ms: Annotated[
        float,
        Meta(
            description="Log, by name, any step that blocks the event loop for longer than this. 0: never.",
            ge=0,
            le=60_000,
            extra={"unit": "milliseconds"},
        ),
    ] = 250.0


class JournalConfig(Struct, frozen=True, kw_only=True):
    """The local journal, which makes acknowledged writes durable."""

    durability: Annotated[
        Literal["memory", "process", "power"],
        Meta(
            description="What an acknowledged write survives. memory: only a clean stop. process: also a crash of "
            "the daemon; a power loss loses up to sync_interval_s. power: also a power loss."
        ),
    ] = "process"
    sync_interval_s: Annotated[
        float,
        _seconds("How often the journal is synced to disk when durability is process.", 0.01, 60),
    ] = 1.0
    checkpoint_min_bytes: Annotated[
        int,
        _bytes(
            "Size that the journal's log has to reach before a checkpoint compacts it. A stop, a small disk or a "
            "million records bring one earlier.",
            4 * KIB,
            TIB,
        ),
    ] = 64 * MIB


class StoreConfig(Struct, frozen=True, kw_only=True):
    """The store: where sessions are copied to asynchronously."""

    url: Annotated[
        str,
        _text(
            "URL of the store. sqlite: is a file in the state directory. Put a password into password_file rather "
            "than here.",
            "sqlite:[PATH], redis://…, rediss://…, unix://…, redis+sentinel://…, redis+cluster://… or HOST:PORT",
        ),
    ] = "sqlite:"
    prefix: Annotated[
        str,
        _text(
            "Prefix of every key in Redis. It must be the same on all hosts and in the Go package.",
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
        _seconds("How often changes are written to the store.", 0.005, 60),
    ] = 0.2
    batch_sessions: Annotated[
        int,
        _count("Maximum number of sessions in one batch to the store.", "sessions", 1, 100_000),
    ] = 200
    batch_bytes: Annotated[
        int,
        _bytes(
            "Maximum size of a batch to the store. Packing and sending it keeps the event loop busy for about 4 µs "
            "per KiB.",
            4 * KIB,
            GIB,
        ),
    ] = 256 * KIB
    timeout_s: Annotated[
        float,
        _seconds("The store counts as down once it has not answered for this long.", 0.05, 60),
    ] = 2.0
    confirm: Annotated[
        Literal["reply", "aof"],
        Meta(
            description="When a write to Redis counts as done. reply: once Redis has replied. aof: once it is also "
            "in the append-only file on disk (WAITAOF, Redis 7.2 or newer); a Redis that can't confirm that is "
            "refused. If journal.durability is power, it is always aof where Redis can confirm it, and SQLite "
            "syncs its file."
        ),
    ] = "reply"
    beat_interval_s: Annotated[
        float,
        _seconds("How often the latest heartbeats are written to the store.", 0.1, 3600),
    ] = 15.0
    host_lease_s: Annotated[
        float,
        _seconds(
            "How long another host that shares this Redis may be silent before its calls are taken over. Must be "
            "the same on all hosts.",
            1,
            3600,
        ),
    ] = 30.0
    password_file: Annotated[
        str,
        _text(
            "File whose first line is the Redis password. If empty: $CREDENTIALS_DIRECTORY/redis-password, "
            "if systemd provides it.",
            "a path, or empty",
            _PATH_PATTERN,
        ),
    ] = ""
    max_dirty_bytes: Annotated[
        int,
        _bytes(
            "While more than this is waiting to be written to the store, new sessions are refused (overloaded); "
            "live ones continue.",
            64 * KIB,
            TIB,
        ),
    ] = GIB

    def __repr__(self) -> str:
        # a configuration may end up in logs and tracebacks; its password must not
        shown = to_builtins(self) | {"url": redact_url(self.url)}
        return f"StoreConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class ReaperConfig(Struct, frozen=True, kw_only=True):
    """When a call counts as dead, and what happens to it then."""

    heartbeat_timeout_s: Annotated[
        float,
        _seconds(
            "A session without a heartbeat for this long becomes suspect, unless it has a timeout of its own.",
            0.1,
            DAY_S,
        ),
    ] = 30.0
    grace_s: Annotated[
        float,
        _seconds("How long a suspect session is kept for recovery before it is ended as expired.", 0, DAY_S),
    ] = 30.0
    reconnect_grace_s: Annotated[
        float,
        _seconds("How long a live worker may be disconnected before its sessions become orphans.", 0, DAY_S),
    ] = 5.0
    retention_s: Annotated[
        float,
        _seconds("How long an ended session is kept in memory; after that only the store has it.", 0, DAY_S),
    ] = 300.0
    max_handovers: Annotated[
        int,
        _count(
            "End a call as poisoned once this many claimers have died within a minute of claiming it. 0: never.",
            "claimers",
            0,
            1_000_000,
        ),
    ] = 3
    tick_s: Annotated[
        float,
        _seconds("How often deadlines are checked.", 0.005, 10),
    ] = 0.1


class UserLimitsConfig(Struct, frozen=True, kw_only=True):
    """Limits on what the processes of one user may consume together, so that they lock no other user out."""

    connections: Annotated[
        int,
        _count(
            "Connections of one user. 0: all but a twentieth of limits.connections; operators have no limit then.",
            "connections",
            0,
            1_000_000,
        ),
    ] = 0
    sessions: Annotated[
        int,
        _count(
            "Sessions in memory that one user has created. 0: all but a twentieth of limits.sessions; operators "
            "have no limit then.",
            "sessions",
            0,
            100_000_000,
        ),
    ] = 0
    requests_per_s: Annotated[
        int,
        _count(
            "Requests per second of one user, with bursts of up to one second's worth; further requests are read "
            "later. 0: no limit.",
            "requests",
            0,
            100_000_000,
        ),
    ] = 0


class LimitsConfig(Struct, frozen=True, kw_only=True):
    """Limits on what clients and sessions may consume."""

    line_bytes: Annotated[
        int,
        _bytes("Maximum length of a request line; a longer one is dropped and answered too_large.", KIB, 64 * MIB),
    ] = MIB
    session_bytes: Annotated[
        int,
        _bytes("Maximum size of a session; turns and updates that would exceed it are refused.", KIB, GIB),
    ] = 8 * MIB
    head_bytes: Annotated[
        int,
        _bytes(
            "Maximum size of a session without its history. An update keeps the event loop busy for about 10 ms "
            "per MiB of it.",
            KIB,
            64 * MIB,
        ),
    ] = MIB
    connections: Annotated[
        int,
        _count(
            "Maximum number of connections; further ones are refused as overloaded. It is lowered if the limit on "
            "open files is too small for it: a connection needs two descriptors.",
            "connections",
            1,
            1_000_000,
        ),
    ] = 1000
    reserved_connections: Annotated[
        int,
        _count(
            "Connections on top of limits.connections, at most a quarter of it, that are kept free for operators; "
            "workers and subscribers can't use them.",
            "connections",
            0,
            1000,
        ),
    ] = 8
    first_line_s: Annotated[
        float,
        _seconds("Close a new connection that has sent no request after this long. 0: never.", 0, DAY_S),
    ] = 60.0
    idle_timeout_s: Annotated[
        float,
        _seconds(
            "Close a connection that has sent no request for this long, unless it is registered as a worker or has "
            "subscribed to events. 0: never.",
            0,
            DAY_S,
        ),
    ] = 3600.0
    sessions: Annotated[
        int,
        _count(
            "Maximum number of sessions in memory; further ones are refused as overloaded.",
            "sessions",
            1,
            100_000_000,
        ),
    ] = 200_000
    hot_bytes: Annotated[
        int,
        _bytes(
            "Approximate memory for all sessions together. Near it, ended ones leave memory early; at it, new ones "
            "are refused as overloaded; beyond it, large ones may no longer grow. 0: two fifths of the memory that "
            "this process may use, as limited by its cgroup, RLIMIT_AS or the machine.",
            0,
            64 * TIB,
        ),
    ] = 0
    events: Annotated[
        int,
        _count(
            "Number of events kept for subscribers that reconnect; one that has missed more is told of a gap.",
            "events",
            1,
            10_000_000,
        ),
    ] = 10_000
    pending_reply_bytes: Annotated[
        int,
        _bytes(
            "No further requests are read from a connection that has more unsent replies than this.",
            4 * KIB,
            GIB,
        ),
    ] = 8 * MIB
    reply_bytes_total: Annotated[
        int,
        _bytes(
            "Maximum size of the unsent replies of all connections together. Above half of it, each connection is "
            "limited to a share of that half; above all of it, the connections whose clients read least are "
            "closed. Unless it is set, it is at most an eighth of the memory that this process may use.",
            MIB,
            TIB,
        ),
    ] = 256 * MIB
    per_uid: UserLimitsConfig = UserLimitsConfig()


class AccessConfig(Struct, frozen=True, kw_only=True):
    """Who may do what, by the user that connects. A reload applies it."""

    allow: Annotated[
        str,
        _text(
            "Who may connect: users by name or uid, groups by name or gid with a leading @. Operators always may. "
            "If empty: everybody whom the socket's mode lets in.",
            "names and ids, separated by commas, such as alice, 1000, @voice; or empty",
            _LIST_PATTERN,
        ),
    ] = ""
    operators: Annotated[
        str,
        _text(
            "Who may drain, erase, steal, flush everything, and see and change sessions of all users; in the "
            "format of access.allow. Root and the daemon's own user always may.",
            "names and ids, separated by commas, such as alice, 1000, @voice; or empty",
            _LIST_PATTERN,
        ),
    ] = ""
    share: Annotated[
        Literal["uid", "group", "all"],
        Meta(
            description="Who may see and change a session. uid: the user that created it. group: also members of "
            "that user's primary group. all: everybody who may connect; unless access.operators is set, everybody "
            "is an operator as well. The packaged file sets it to group."
        ),
    ] = "all"


class HostConfig(Struct, frozen=True, kw_only=True):
    """This host's identity among those that share one Redis."""

    id: Annotated[
        str,
        _text(
            "The host's id. If empty: a random one, which is kept in the state directory.",
            "up to 64 letters, digits, '.', '_' or '-'",
            _HOST_ID_PATTERN,
        ),
    ] = ""


class LogConfig(Struct, frozen=True, kw_only=True):
    """What the daemon logs, and how."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Minimum severity of the lines logged. At info there are at most three per call."),
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json", "journald"],
        Meta(
            description="text and json: lines on stderr. journald: entries of systemd's journal, with fields. "
            "auto: journald if stderr is connected to systemd's journal, otherwise text."
        ),
    ] = "auto"
    burst: Annotated[
        int,
        _count(
            "Maximum number of lines per minute for the same event; further ones are only counted, and the count "
            "is logged. 0: no limit.",
            "lines",
            0,
            1_000_000,
        ),
    ] = 50


class MetricsConfig(Struct, frozen=True, kw_only=True):
    """Figures for Prometheus."""

    listen: Annotated[
        str,
        _text(
            "Where /metrics is served, for Prometheus: an address or a Unix socket. If empty: nowhere.",
            "HOST:PORT, an absolute path, or empty",
            _PATH_PATTERN,
        ),
    ] = ""
    allow_remote: Annotated[
        Literal["no", "yes"],
        Meta(
            description="Whether metrics.listen may be an address that other hosts can reach. It has neither "
            "encryption nor a password."
        ),
    ] = "no"


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration of one daemon; immutable."""

    server: ServerConfig = ServerConfig()
    journal: JournalConfig = JournalConfig()
    store: StoreConfig = StoreConfig()
    reaper: ReaperConfig = ReaperConfig()
    limits: LimitsConfig = LimitsConfig()
    access: AccessConfig = AccessConfig()
    host: HostConfig = HostConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
