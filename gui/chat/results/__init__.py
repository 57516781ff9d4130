"""Views of what a reply says, one module each; a scenario names the one it wants by its `view`."""
