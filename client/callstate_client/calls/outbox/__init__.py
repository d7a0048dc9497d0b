"""What a held call has changed and the daemon has not acknowledged yet.

Media code must not wait for a daemon that restarts. So a call's methods change the worker's own view of the call
(`call.state`), put a mutation into the call's outbox, and return; what is queued is sent in the background.

Order. Mutations take effect in the order in which they were queued: one request of a call is in flight at a time.
Consecutive turns are sent as one request. A patch (of the head, or of one turn) that still waits absorbs a later
patch of the same thing, unless something in between forbids it; and an amendment of a turn that still waits is
written into that turn. So partial transcripts, ten a second, fill no outbox.

Once. Each request carries an `op`, which the daemon remembers, and is repeated unchanged, with backoff, until there
is an answer that a repeat would not change. The request in flight belongs to the outbox, not to the task that
repeats it: a task that is cancelled, as `asyncio.run` cancels all of them at its end, is replaced by another one,
which repeats the request with its `op`.

Acknowledged. The awaitable of each mutation in the request gets the session's version, a turn its index in the
history, which later amendments of it are sent with.

Refused. The view must become what the daemon has. All queued changes are undone, newest first, what was refused is
dropped, and the remaining ones are made again. Of several turns in one request none has been taken then, so they
are repeated one by one, and only the bad one is refused. Three refusals concern more than the mutation: a session
that was claimed, has ended or was deleted takes nothing more, so all that is queued fails and the call is lost; one
that has reached `limits.session_bytes` refuses turns of that size until something has made room; and an amendment
of a refused turn is refused with it.

Bounds. MAX_ENTRIES and MAX_BYTES per call. Beyond them methods raise OverloadedError before anything has changed;
an end is always queued.

Leaving. A call that is left, or a store that is closed, waits up to `close_timeout_s` for its outbox to become
empty. UndeliveredError then distinguishes what was never sent from what was not answered, whose outcome is unknown.
Delivery for a call that was left continues while the store is open; closing the store gives up what remains.

backlog.py: the queue itself. entry.py: a mutation in it, and its outcome. local_changes.py: changes of the view
that can be undone. outbox.py: queueing, and what an answer does. sender.py: one request after the other.
in_flight.py: sending and repeating one. delivery.py: waiting for an empty outbox, and reporting. in_order.py:
mutations by the store's own methods, in their place.
"""
