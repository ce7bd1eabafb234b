"""The migration in a thread of its own."""
