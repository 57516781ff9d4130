"""The window. It knows the engine through its messages, recipes, storage, monitor and worker, and never loads torch."""
