"""Environments the trainer can use: gymnasium's, EnvPool's, and batches of tensors on a device."""
