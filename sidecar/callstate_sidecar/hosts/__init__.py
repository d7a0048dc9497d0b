"""Several hosts over one store: leases, who is dead, and the sessions that pass from one host to another.

lease       this host's lease: a counter that its daemon raises; a second daemon with its host id is refused
watch       the other hosts' counters: one that stands still for `store.host_lease_s` is dead
takeover    claims of other hosts' sessions
adoption    the sessions of dead hosts
possession  sessions that this host has lost, and those that it has and does not keep hot
doubts      sessions that it may have and not keep hot, until that is known
rereading   the same after a start, where the store has one host
sweep       the active set, which one host sweeps for all
rounds      the task that does all of this every few seconds
"""
