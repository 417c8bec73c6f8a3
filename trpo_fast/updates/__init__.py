"""What a user calls: the Fisher operator, the update functions and what they report."""
