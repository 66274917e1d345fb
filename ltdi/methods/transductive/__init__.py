"""Transductive methods, which use the unlabelled query images as well as the support set."""
