"""Arrays and pictures in, numbers and pages out: how good a network is, what the table alone would reach, and a page."""
