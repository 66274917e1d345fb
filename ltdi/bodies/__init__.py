"""Backbones, frozen once trained: images (M, channels, height, width) in [0, 1] -> features (M, F); and text models."""
