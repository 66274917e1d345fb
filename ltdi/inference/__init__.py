"""A finished run in use: heads, adapters, comparison, export."""
