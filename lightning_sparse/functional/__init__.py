"""The maths: tensors or modules in, new tensors out; no Lightning."""
