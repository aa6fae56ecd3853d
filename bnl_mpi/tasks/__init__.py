"""What makes blocks: the reduction, and the expansion of codestreams."""
