"""Meta-learning algorithms shared by methods: REPTILE's outer step, and model selection on meta-val tasks."""
