"""One session: its document as bytes, the facts beside it, validation, and its stored form."""
