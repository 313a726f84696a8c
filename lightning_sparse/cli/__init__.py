"""The console script ``lightning-sparse``."""

from lightning_sparse.cli.main import main

__all__ = ["main"]
