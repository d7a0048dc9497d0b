"""The names of the metrics: for each figure of `server.stats`, what it is called for Prometheus."""

from __future__ import annotations

from typing import Final, NamedTuple


class Named(NamedTuple):
    """A metric without labels: its name, and what it is."""

    name: str
    meaning: str


GAUGES: Final = {
    "suspects": Named("callstate_sessions_suspect", "Live sessions that were silent for their timeout."),
    "orphans": Named("callstate_sessions_orphaned", "Live sessions whose owner has left or released them."),
    "workers": Named("callstate_workers", "Workers that are connected, or may reconnect."),
    "workers_unwatched": Named("callstate_workers_unwatched", "Workers whose exit can't be seen."),
    "subscribers": Named("callstate_event_subscribers", "Connections that receive events."),
    "draining": Named("callstate_draining", "1 while new sessions are refused because the host drains."),
    "connections": Named("callstate_connections", "Clients connected now."),
    "dirty": Named("callstate_dirty_sessions", "Sessions and deletions that the store does not have yet."),
    "dirty_bytes": Named("callstate_dirty_bytes", "Approximate size of what the store does not have yet."),
    "hot_bytes": Named("callstate_hot_bytes", "Memory that sessions and what is kept beside them take, about."),
    "hot_bytes_limit": Named("callstate_hot_bytes_limit", "The bound on that, limits.hot_bytes; 0: none."),
    "oldest_dirty_s": Named("callstate_dirty_age_seconds", "How long the oldest unstored change has waited."),
    "quarantined": Named("callstate_quarantined_sessions", "Sessions and deletions that the store refuses."),
    "journal_bytes": Named("callstate_journal_bytes", "Bytes of records in the journal's snapshot and log."),
    "journal_disk_bytes": Named("callstate_journal_disk_bytes", "Disk space that the journal takes."),
    "journal_unsynced": Named("callstate_journal_unsynced_records", "Records that a power loss would lose."),
}
"""By the member of `server.stats`."""

COUNTERS: Final = {
    "stalled_s": Named("callstate_stalled_seconds", "Time in which the daemon stood still."),
    "subscribers_cut_off": Named("callstate_event_subscribers_cut_off", "Subscribers that did not read."),
    "connections_total": Named("callstate_connections_accepted", "Clients accepted."),
    "connections_cut_off": Named("callstate_connections_cut_off", "Clients closed because they did not read."),
    "connections_refused": Named("callstate_connections_refused", "Clients refused and disconnected."),
    "connections_timed_out": Named("callstate_connections_timed_out", "Clients closed because they asked nothing."),
    "evicted": Named("callstate_sessions_evicted", "Ended sessions that left memory early, for lack of it."),
    "growth_refused": Named("callstate_growth_refused", "Changes of large sessions refused for lack of memory."),
    "checkpoints": Named("callstate_checkpoints", "Checkpoints of the journal."),
    "checkpoints_failed": Named("callstate_checkpoints_failed", "Checkpoints of the journal that failed."),
    "task_failures": Named("callstate_task_failures", "Failures of background tasks, which were restarted."),
    "groups_not_durable": Named("callstate_groups_not_durable", "Groups that the journal did not take."),
    "store_batches": Named("callstate_store_batches", "Batches the store has taken."),
    "store_writes": Named("callstate_store_writes", "Sessions in the batches the store has taken."),
    "store_batches_halved": Named("callstate_store_batches_halved", "Batches tried again in halves."),
    "store_repairs": Named("callstate_store_repairs", "How often lost data of the store was repaired."),
    "store_refused": Named("callstate_store_refused", "Writes that the store refused, counted per session."),
    "store_failures": Named("callstate_store_failures", "Batches, heartbeats and pings that failed."),
    "store_set_aside": Named("callstate_store_set_aside", "Changes by other software that were set aside."),
    "sessions_lost": Named("callstate_sessions_lost", "Sessions that another host has taken over."),
}
"""Likewise; Prometheus sees them with `_total`, and with 0 before they are counted."""

SHOWN_OTHERWISE: Final = frozenset(
    {
        "connections_limit",
        "sessions",
        "store",
        "store_error",
        "journal",
        "loop_lag_s",
        "requests",
        "errors",
        "suspected",
        "reaped",
        "long_turns",
        "gc",
    }
)
"""Members of `server.stats` that are shown with labels, as histograms, or not at all."""


def counter(member: str) -> Named:
    """The counter of a member of `server.stats`; one that is not listed here keeps its name."""
    return COUNTERS.get(member) or Named(f"callstate_{member}", f"See {member} in the daemon's statistics.")
