"""Baselines: one a file; their names are in ``ltdi.methods.registry.BASELINES``."""
