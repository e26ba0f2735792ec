"""Where a study runs: the connection to a Ray cluster and what fits on it."""
