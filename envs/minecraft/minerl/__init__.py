"""MineRL as Gymnasium environments: `minerl` plays in an interpreter of its own, behind a small protocol."""
