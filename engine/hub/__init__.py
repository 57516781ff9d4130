"""Models on the disk and on the hub: what there is, and getting more. No torch here, and no Qt."""
