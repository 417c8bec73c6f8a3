"""Training: configuration, rollouts, the loop, checkpoints, evaluation, export."""
