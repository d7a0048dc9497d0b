"""The commands of `callstate`, a module each."""
