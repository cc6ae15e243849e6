"""Where everything that was measured and scored is kept: one SQLite file."""
