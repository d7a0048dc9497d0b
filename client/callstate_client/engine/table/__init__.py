"""All sessions: the hot map, its indexes, the records of the journal, and how a group of changes is undone."""
