"""The conditions of a move, by subject. Pure functions of `preflight.facts.Facts`."""
