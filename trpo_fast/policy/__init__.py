"""Policies: the net, its flat parameters, heads and their distributions."""
