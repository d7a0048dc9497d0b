"""All sessions: the hot map and its indexes, the dirty set, tombstones, and the replay of a journal."""
