"""Measured rows: settings × variants × seeds over the stages of ``pipeline``, one long table."""
