"""Base classes of the methods, the hyperparameters that they share, and wrappers of trained methods."""
