"""Other worlds than Memory Maze and Minecraft, and what is known of them."""
