"""What runs on a GPU, section by section: ``bash benchmarks/gpu.sh``."""
