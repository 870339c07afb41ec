"""Parts of the layers."""
