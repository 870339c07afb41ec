"""The bridge: a server of MineRL's Malmo-env protocol whose world need not be Minecraft.

`python -m lssvwm.envs.minecraft.malmo --world minetest` lets the unmodified `minerl` 0.4.4 client play in Minetest.
"""
