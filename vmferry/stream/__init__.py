"""Reads QEMU's migration stream and looks into its pages. Imports nothing that does I/O."""
