"""Which versions of other packages were tried, and what came of it."""
