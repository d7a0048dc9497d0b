"""The requests of the protocol: one function each, which checks its arguments and prepares request and decoder.

No I/O: the asyncio front and the blocking one send these requests and decode the replies with them. What can't be
sent raises here, before anything has been sent.

reads.py: loads and listings. saves.py: a state as a whole. mutations.py: turns, updates, ends, deletions.
ownership.py: heartbeats and claims. quarantine.py: what the store refuses. server.py: the daemon itself.
redaction.py: what the worker's `before_send` makes of turns.
prepared.py: what they all give. patches.py: the arguments of `update()` and `amend_turn()` as merge patches.
validation.py: checks.
"""

from callstate_client.requests.mutations import (
    add_turn,
    amend_turn,
    check_amendable,
    delete,
    end,
    record_interruption,
    update,
)
from callstate_client.requests.ownership import claim, claim_next, heartbeat, release
from callstate_client.requests.prepared import Ops, Page, PreparedRequest, fenced
from callstate_client.requests.quarantine import (
    drop_quarantined,
    quarantined,
    retry_quarantined,
    show_quarantined,
)
from callstate_client.requests.reads import check_listable, get, list_active, listing_features, load, sessions
from callstate_client.requests.redaction import BeforeSend, Redaction
from callstate_client.requests.saves import REWRITES, beside_state, document, rewrite_head, save, save_document
from callstate_client.requests.server import (
    CHECK_S,
    CONFIG,
    ERASE_S,
    FLUSH_MARGIN_S,
    FLUSH_S,
    INFO,
    PING,
    STATS,
    check,
    drain,
    erase,
    flush,
    workers,
)

__all__ = [
    "CHECK_S", "CONFIG", "ERASE_S", "FLUSH_MARGIN_S", "FLUSH_S", "INFO", "PING", "REWRITES", "STATS", "BeforeSend",
    "Ops", "Page", "PreparedRequest", "Redaction", "add_turn", "amend_turn", "beside_state", "check",
    "check_amendable", "check_listable",
    "claim", "claim_next", "delete", "document", "drain", "drop_quarantined", "end", "erase", "fenced", "flush",
    "get", "heartbeat", "list_active", "listing_features", "load", "quarantined", "record_interruption", "release",
    "retry_quarantined", "rewrite_head", "save", "save_document", "sessions", "show_quarantined", "update",
    "workers",
]  # fmt: skip
