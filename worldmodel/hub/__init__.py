"""Worlds and episodes on the Hugging Face hub: `lssvwm push` and `pull`, and hf://OWNER/NAME for a checkpoint."""
