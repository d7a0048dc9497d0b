"""Workers: their connections and processes, and what their leaving means for the sessions that they own."""
