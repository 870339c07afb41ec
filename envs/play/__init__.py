"""Play a dream by hand in a browser, beside the real world: `python -m envs.play CHECKPOINT`."""
