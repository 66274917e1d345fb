"""Baselines that see the query images, unlabelled."""
