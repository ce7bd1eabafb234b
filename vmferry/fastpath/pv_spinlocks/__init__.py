"""Para-virtualized spinlocks."""
