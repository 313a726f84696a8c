"""The handwritten digits that come with scikit-learn: no download, a second per run."""

import torch

from lightning_sparse.checks import check_count, check_number
from lightning_sparse.data.images import ImageDataModule
from lightning_sparse.data.labelled import Labelled, split
from lightning_sparse.extras import import_extra

__all__ = ["DigitsDataModule"]


class DigitsDataModule(ImageDataModule):
    """1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn.

    Args:
        test_fraction: Share of all images held out for testing, in (0, 1).
        batch_size: Images per batch.
        val_fraction: Share of the remaining images held out for validation; 0 trains on all of them.
        num_workers: Worker processes per loader.
        seed: Seed of both splits: another seed means other test images.
        quarter_turns: How often images are turned by 90 degrees, as a task for nets that know upright ones.
    """

    input_shape = (1, 8, 8)
    num_classes = 10

    def __init__(
        self,
        test_fraction: float = 0.2,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
        quarter_turns: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, num_workers, seed)
        hint = "It is a share, not a count; this data set has no test images of its own."
        check_number("test_fraction", test_fraction, "(0, 1)", hint)
        check_count("quarter_turns", quarter_turns, 0)
        self.test_fraction = test_fraction
        self.quarter_turns = quarter_turns

    def load_train(self) -> Labelled:
        """Return the images that are not held out for testing."""
        return self._load(held_out=False)

    def load_test(self) -> Labelled:
        """Return the images held out for testing."""
        return self._load(held_out=True)

    def _load(self, held_out: bool) -> Labelled:
        bunch = import_extra("sklearn.datasets", "this data set").load_digits()
        images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)
        images = images.rot90(self.quarter_turns, (2, 3))
        labels = torch.tensor(bunch.target, dtype=torch.int64)
        chosen = split(len(labels), self.test_fraction, self.seed)[int(held_out)]
        return images[chosen], labels[chosen]
