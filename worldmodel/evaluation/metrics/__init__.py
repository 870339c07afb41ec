"""How near frames are to the true ones, and how right the heads are."""
