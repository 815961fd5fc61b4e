"""Iterations whose work several ranks share."""
