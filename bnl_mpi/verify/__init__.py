"""Whether a set is what its raw data give, all of it; and a certificate of that, by which raw data may be deleted."""
