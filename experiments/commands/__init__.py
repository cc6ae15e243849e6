"""What the command line has besides the verbs of the pipeline, and what it prints."""
