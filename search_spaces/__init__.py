"""What to run: studies, cells, trials, identity, and the names every layer shares."""
