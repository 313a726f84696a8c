"""How connections move: which are dropped, and where others grow."""
