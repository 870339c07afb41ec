"""Observations and actions of Gymnasium as world models, files and policies have them."""
