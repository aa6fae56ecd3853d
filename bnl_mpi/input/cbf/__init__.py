"""CBF series as input: their headers, which files make a series, its geometry, a master of it, and its frames."""
