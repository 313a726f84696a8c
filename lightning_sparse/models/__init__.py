"""Networks of the papers, and the LightningModule that trains them."""

from lightning_sparse.models.classifier import ImageClassifier
from lightning_sparse.models.lenet import LeNet5, LeNet300100

__all__ = ["ImageClassifier", "LeNet5", "LeNet300100"]
