"""The verbs of the protocol, a module per kind; `table` lists them all."""
