"""Spots on raw frames: where they are, what they sum to, and what a reduction leaves of them."""
