"""Players: random, scripted, all-knowing, and those that watch through a world model."""
