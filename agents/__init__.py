"""Agents: policies for real and learned environments, learning in dreams, evaluation."""
