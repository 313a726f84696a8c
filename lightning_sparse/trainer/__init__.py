"""What this package asks of Lightning, without any policy."""
