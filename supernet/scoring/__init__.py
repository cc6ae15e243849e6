"""What a sub-network needs to be scored: its own BatchNorm statistics, and images of its size."""
