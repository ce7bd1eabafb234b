"""Multi-queue virtio-scsi, and virtio-blk."""
