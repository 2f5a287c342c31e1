"""Figures, never verdicts: what is compared runs in the same rounds on the same machine."""
