"""What holds a sparse weight: an ordinary one under a mask, or a compact layer's values and positions."""
