"""Callbacks that move connections during training."""
