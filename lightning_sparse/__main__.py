"""``python -m lightning_sparse``: the console script, where it is not on the path."""

from lightning_sparse.cli.main import main

if __name__ == "__main__":
    main()
