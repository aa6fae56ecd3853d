"""The sub-commands, a module each; a new one is a file here and a line in bnl_mpi.arguments.COMMANDS."""
