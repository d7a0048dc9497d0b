"""MemoryStore: the whole client API without a daemon, for tests and for trying things out.

    store.py     the public class: one worker's view of the sessions
    sessions.py  what all views share: an engine, driven by calls and by a clock that may be moved
    views.py     what the engine sees of a view: a connection, and the process behind it
    events.py    events as an asynchronous iterator

Nothing of it is loaded before it is first named (see callstate_client.__getattr__).
"""

from callstate_client.clock import Clock
from callstate_client.memory.store import MemoryStore

__all__ = ["Clock", "MemoryStore"]
