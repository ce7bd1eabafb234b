"""QEMU's way to write a CPU model with its features: `EPYC,-avx,kvm-pv-unhalt=on`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_SIGNS = {"+": "on", "-": "off"}
# The other words that QEMU takes for these two.
_WORDS = {"yes": "on", "true": "on", "y": "on", "no": "off", "false": "off", "n": "off"}
# These take what the host's KVM can do; all others have a list of features of their own.
HOST_MODELS = frozenset({"host", "max"})


@dataclass(frozen=True, slots=True)
class CpuModel:
    """`name` and the features that are set, each by its name with dashes."""

    name: str
    features: Mapping[str, str]

    @property
    def named(self) -> bool:
        """Whether it is one with a list of its own, such as EPYC."""
        return self.name not in HOST_MODELS

    def is_on(self, feature: str) -> bool:
        return self.features.get(feature) == "on"

    def is_off(self, feature: str) -> bool:
        return self.features.get(feature) == "off"


def parse_cpu_model(text: str) -> CpuModel:
    """What QEMU makes of `text`; of a feature that is there twice the last one."""
    name, *words = text.split(",")
    features = {}
    for word in words:
        sign = word[:1]
        key, _, value = word.lstrip("+-").partition("=")
        # QEMU takes underscores, as old scripts have them.
        features[key.replace("_", "-")] = _SIGNS.get(sign) or _WORDS.get(value, value) or "on"
    return CpuModel(name, features)
