"""vmferry: live migration of KVM virtual machines, foreseen, steered and explained."""

__version__ = "0.1.0"
