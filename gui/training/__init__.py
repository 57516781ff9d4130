"""Training models: a plan, the curves of a run as it goes, and the runs of before."""
