"""Models: what is on this computer, whether it fits, and more of them from the hub."""
