"""The commands: each parses, calls one function and prints. No logic."""
