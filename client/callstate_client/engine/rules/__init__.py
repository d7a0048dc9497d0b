"""What all verbs share: finding sessions, authority, lifecycle, and the bounds of names."""
