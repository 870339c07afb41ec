"""Play a dream by hand in a browser, beside the real world: `python -m lssvwm.envs.play CHECKPOINT`."""
