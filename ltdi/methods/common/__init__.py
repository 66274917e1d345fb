"""What methods share: the base classes, their hyperparameters, storage."""
