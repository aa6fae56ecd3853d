"""Reflections that other programs found or predicted: what `--keep` keeps of the images."""
