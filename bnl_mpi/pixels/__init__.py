"""What happens to pixels: the kernels, their NumPy twins, maps over bins, gaps."""
