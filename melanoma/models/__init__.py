"""Batches to logits: the network, its parts and its loss. Importing a module of this room imports Keras."""
