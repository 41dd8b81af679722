"""Bytes to pixels to pixels: uint8 RGB arrays (height, width, 3)."""
