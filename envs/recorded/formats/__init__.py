"""The formats of recorded play, one file each."""
