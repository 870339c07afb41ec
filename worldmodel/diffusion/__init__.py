"""What is noised and how, and what a model is trained to make of it."""
