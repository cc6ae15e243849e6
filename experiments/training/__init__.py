"""Training the supernet and the baselines of a run."""
