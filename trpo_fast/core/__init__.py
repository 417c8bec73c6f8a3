"""The update as maths: batches, the reference of every stage, problems, the dense oracle, checks."""
