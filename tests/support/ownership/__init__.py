"""A state machine of calls and their workers, and the model of the contract that it holds the daemon's core to.

The model (`model`, `expiry_model`, `invariants`, `request_strategies`) imports nothing of callstate: what it
foretells is written down a second time here, from docs/protocol.md.
"""
