"""Devices that are not this process: browsers that open a page of ours, and hosts that a folder is copied to."""
