"""The Memory Maze, the same task at several times the speed."""
