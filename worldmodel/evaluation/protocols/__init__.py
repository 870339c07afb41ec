"""Real episodes continued: which clips, what is shown of them, how models go on, and what that comes to."""
