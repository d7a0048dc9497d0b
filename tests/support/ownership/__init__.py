"""A state machine of calls and their workers, and the model of the contract that it holds the daemon's core to.

The model (`model`, `expiry_model`, `invariants`, `request_strategies`) imports nothing of callstate: it is a second
implementation of the rules, written from docs/protocol.md.
"""
