"""The monitor dock: what the machine did while the model ran, as four charts on one time axis."""
