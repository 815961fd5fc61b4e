"""Iterations whose work is distributed over several ranks."""
