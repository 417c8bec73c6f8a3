"""What a user calls: the Fisher operator and the update functions."""
