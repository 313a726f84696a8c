"""Weights of which every process holds some rows: what is ranked, counted and moved there, all together."""
