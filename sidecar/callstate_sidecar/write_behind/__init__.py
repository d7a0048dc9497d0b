"""Write-behind: sessions are copied to the store asynchronously, in batches, until the store has confirmed them.

A write is acknowledged once it is in the journal; the store gets it later. What the store has, and when:

**Dirty** is a session whose newest state the store does not have. Only the newest state is written, so ten changes
between two rounds cost one write, and a session created and deleted in between costs none. A round
(`store.flush_interval_s`) writes what was dirty when it began, oldest first, in batches bounded by count and bytes.

**In flight** is a session whose write has not been answered. It becomes

- clean, if the store has written it and it has not changed since;
- dirty again, with its old age, if the batch failed. Nobody knows whether the store applied it, but writes are
  absolute, so repeating them is harmless;
- quarantined, if the store can't take it (`REJECTED`), or a bug of ours lets no write be made of it: it stays in
  memory and in the journal, a deletion with its tombstone; it is reported once, and is tried again when it changes
  and by backoff (engine/table/quarantine.py);
- reconciled, if the store has a state from elsewhere (`SUPERSEDED`, `UNSEEN`): reconcile.py decides whether ours is
  written again above the store's, or the store's counts and ours is quarantined.

**The journal goes first.** The open group is committed before a batch is taken and before its results are applied.
So the store never gets a change that could still be rolled back, and a rollback never undoes what the store has
said.

**A batch that is not answered** although the store answers a ping, or that meets a bug of ours, is halved until the
culprit is alone, which is then quarantined; its attempts go alone from then on (batch_limit.py). If the store
answers for none of several, it is the store's failure. A batch whose connection breaks is first sent once more.

**Failures of the store** open the circuit (store_state.py) and are retried with exponential backoff; dirty sessions
wait in memory and journal. Reads on behalf of clients (guarded_reads.py) go through the same circuit, and an idle
store is pinged (store_watch.py). While nothing is dirty, a ping finds out that the store is back. If the store
turns out to have lost what was written (a SQLite file that was deleted, a Redis that failed over to a replica that
lagged behind), everything hot is dirty again, and recent deletions are repeated (deletions.py). Ended sessions stay
hot as long as it is in doubt whether the store still has them.

**Beats** are not part of a session's state: the last ones are written every `store.beat_interval_s`, many at a
time. **The sweep** compares hot sessions with the store and renews the TTLs of live ones (sweep.py).
**`server.flush`** waits until the store has everything that was dirty when it was called (flush.py).
"""

from callstate_sidecar.write_behind.writer import WriteBehind

__all__ = ["WriteBehind"]
