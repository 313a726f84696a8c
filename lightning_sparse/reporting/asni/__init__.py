"""Figures of the ASNI paper from the folders of finished runs."""
