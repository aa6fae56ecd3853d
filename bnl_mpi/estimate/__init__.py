"""What settings would give and cost, measured on a sample of the frames themselves."""
