"""Several hosts over one store: leases, who is dead, and the sessions that pass from one host to another.

lease      this host's lease: a counter that its daemon raises; a second daemon with the same host id is refused
watch      the other hosts' counters: one that stands still for `store.host_lease_s` is dead
rounds     the task that does all of this every few seconds
"""
