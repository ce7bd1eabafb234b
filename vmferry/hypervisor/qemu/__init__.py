"""QEMU: its command line, its processes, QMP, and a migration between two of them."""
