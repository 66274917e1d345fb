"""A schedule, a process, a denoiser and a sampler: diffusion over vectors with a condition. It knows no tasks."""
