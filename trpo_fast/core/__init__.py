"""The update as maths: batches, every stage in plain PyTorch, problems, checks, a dense oracle."""
