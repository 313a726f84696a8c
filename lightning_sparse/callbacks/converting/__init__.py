"""Callbacks that put other layers in the place of dense ones, before optimizers are made."""
