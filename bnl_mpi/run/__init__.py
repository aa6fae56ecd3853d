"""A run over ranks or shares: agreement, work, locks, signals, resume, words about it.  Knows no pixels."""
