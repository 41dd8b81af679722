"""Rows and cache to a trained network to a bundle."""
