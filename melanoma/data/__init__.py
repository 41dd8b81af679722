"""A dataset on disk to rows and batches: tables, image sources, duplicates, encoding, balance, folds, cache."""
