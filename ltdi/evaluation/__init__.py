"""Analyses of generated weights: condition ablation, similarity of weight files, sharpness of minima."""
