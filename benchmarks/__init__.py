"""Side-by-side speed measurements. Each module prints a table and, as its last line, one JSON object."""
