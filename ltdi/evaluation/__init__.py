"""Analyses of generated weights."""
