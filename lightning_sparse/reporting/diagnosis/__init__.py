"""A net before its first step: its Jacobian, what layers keep, its first loss, the scale of its signals."""

from lightning_sparse.reporting.diagnosis.content import Diagnosis, LayerStart, Spectrum
from lightning_sparse.reporting.diagnosis.diagnose import diagnose
from lightning_sparse.reporting.diagnosis.spectrum import Statistics

__all__ = ["Diagnosis", "LayerStart", "Spectrum", "Statistics", "diagnose"]
