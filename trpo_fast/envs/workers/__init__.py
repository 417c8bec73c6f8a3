"""Copies of gymnasium environments in processes that share memory with the trainer."""
