"""The KVM clock without a system call."""
