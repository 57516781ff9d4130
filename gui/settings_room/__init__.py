"""Settings: how the window looks, how many threads the engine may use, where the data lie, what this is."""
