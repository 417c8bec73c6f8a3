"""Copies of gymnasium environments in one process, and their saved states."""
