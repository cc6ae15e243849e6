"""Accuracy of sub-networks."""
