"""Measurements on whole data sets: not part of the installed package."""
