"""Training: settings, rollouts, the loop, checkpoints, logs, evaluation, export."""
