"""Workers: their connections and processes, and what becomes of their sessions when they leave."""
