"""Large pages of the IOMMU, and of the guest's RAM."""
