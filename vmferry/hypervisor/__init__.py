"""Carries things out: `base` says what a hypervisor must do, `qemu` and `simulated` do it."""
