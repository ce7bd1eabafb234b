"""Runs QEMU's own pre-copy into a sink of ours and cancels it: a move that cannot happen."""
