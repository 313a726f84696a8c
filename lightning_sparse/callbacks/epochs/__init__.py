"""Callbacks that prune between epochs."""
