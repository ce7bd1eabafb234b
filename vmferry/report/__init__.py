"""Pages and words about one migration, finished or running. Reads traces; touches no VM."""
