"""A bundle to answers, with no deep-learning framework installed."""
