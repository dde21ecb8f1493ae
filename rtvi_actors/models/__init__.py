"""Which weights there are, from which package, and their preparation."""
