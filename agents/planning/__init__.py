"""Planning in dreams."""
