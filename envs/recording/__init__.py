"""Real environments played and written down as episodes."""
