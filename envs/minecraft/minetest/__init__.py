"""A voxel world that runs without Java: Debian's minetest engine, headless and frame by frame."""
