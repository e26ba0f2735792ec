"""How a trial runs: tasks, models, sources, the training loop, the rank side of a gang."""
