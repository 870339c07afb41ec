"""A run on disk: its settings, its stages, and its command line."""
