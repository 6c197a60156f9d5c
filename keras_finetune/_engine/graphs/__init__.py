"""Functional models as lists of steps, and where to cut them."""
