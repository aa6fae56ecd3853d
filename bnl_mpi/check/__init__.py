"""Which demands of the programs that read diffraction data a set meets, and whether it is whole.

`rule` holds the form of a rule, `subject` what rules look at, `xds`, `dials`, `others` and `soundness` the
rules themselves, `verdict` runs them, and `cli` is the command `bnl-mpi check`.
"""
