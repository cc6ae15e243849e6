"""One small network in one training: units of a dependency graph are driven to zero while it trains, and cut out."""
