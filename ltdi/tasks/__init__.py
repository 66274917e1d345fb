"""Episodes: how tasks are drawn, batched, stored and read back."""
