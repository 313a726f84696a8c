"""All that is written to files and read from them."""
