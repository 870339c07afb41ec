"""Minecraft and worlds like it: MineRL, Minetest, and the bridge between them."""
