"""From files of frames to frames and an experiment; a new input format is a module here."""
