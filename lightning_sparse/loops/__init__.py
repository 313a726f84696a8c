"""Training loops other than Lightning's: plain PyTorch, Fabric, ``transformers.Trainer``."""
