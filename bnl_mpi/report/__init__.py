"""A page, or a poster, that shows a set beside the one that it was made from."""
