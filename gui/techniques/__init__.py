"""The technique panel: which recipe is on, what it would take, and what really engaged."""
