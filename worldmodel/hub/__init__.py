"""Worlds and episodes on the Hugging Face hub: `python -m worldmodel.hub`, and hf://OWNER/NAME for a checkpoint."""
