"""Conditional diffusion over weight vectors: schedule, process, denoiser, sampler. Independent of tasks and methods."""
