"""Weight trajectories: collected (Algorithm 1), streamed, stored."""
