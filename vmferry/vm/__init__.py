"""The VM specification, the names of VMs, and who may move one."""
