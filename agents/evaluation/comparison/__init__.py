"""Methods side by side, each of several runs: scores, what they are worth, learning curves, and the page."""
