"""Decides what to do with a running migration: one module a policy. No clock, socket or file."""
