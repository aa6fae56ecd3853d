"""The files of a set: blocks, masters, NeXus file, provenance; a new metadata rule is a line in rules."""
