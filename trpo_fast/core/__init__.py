"""The update as maths: batches, every stage in plain PyTorch, problems, dense oracle, checks."""
