"""All cases of the catalogue: planted misconfigurations and right set-ups."""

from __future__ import annotations

from bench._catalogue_case import Case
from bench._catalogue_devices import NET, SCSI, ZERO_COPY
from bench._catalogue_right import RIGHT
from bench._catalogue_vcpus import CLOCKS, LARGE_PAGES, MIGRATION, SPINLOCKS

PLANTED: tuple[Case, ...] = (
    *NET,
    *SCSI,
    *ZERO_COPY,
    *SPINLOCKS,
    *CLOCKS,
    *MIGRATION,
    *LARGE_PAGES,
)
CASES: tuple[Case, ...] = (*PLANTED, *RIGHT)
