"""What a reduction leaves of the diffraction, through DIALS, by resolution shell."""
