"""Latency of sub-networks, on the devices of a recipe and on added ones."""
