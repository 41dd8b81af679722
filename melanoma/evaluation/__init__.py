"""Arrays in, numbers out: how good a network is, how far its probabilities hold, and what would do without it."""
