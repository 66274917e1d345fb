"""Infrastructure: errors, console, devices, random numbers, metrics, layers, training loop."""
