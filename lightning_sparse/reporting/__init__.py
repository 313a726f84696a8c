"""Looks and changes nothing: tables and figures, each measured or marked as theory."""
