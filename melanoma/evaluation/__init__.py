"""Arrays and pictures in, numbers and pages out: how good a network is, and what the table alone would reach."""
