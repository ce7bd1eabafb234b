"""One move of one QEMU VM: its two sides, their preparation, what is watched, and its outcome."""
