"""One file per family of networks: what of it is elastic, and how a sub-network is cut out."""
