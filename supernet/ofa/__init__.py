"""The published once-for-all networks: spaces, configurations and checkpoints."""
