"""HDF5 and its quirks: access, structure, copies of trees."""
