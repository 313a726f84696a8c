"""lightning-bolts, whose last release wants a Lightning and a NumPy of its own."""
