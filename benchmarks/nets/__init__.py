"""Nets of other packages, each trained with each method: what holds, what is refused, and what fails."""
