"""Multi-queue virtio-net: a queue pair for each vCPU."""
