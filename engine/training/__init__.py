"""Training without a window: what a run is made of. Nothing here knows Qt."""
