"""What can be read off a memory that nobody trained for it."""
