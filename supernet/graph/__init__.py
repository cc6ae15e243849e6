"""From any network to the groups of parameters that must shrink together, and to the blocks that can be left out."""
