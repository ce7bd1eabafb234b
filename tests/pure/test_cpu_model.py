"""QEMU's way to write a CPU model, in all its spellings."""

from __future__ import annotations

import pytest

from vmferry.vm.cpu_model import parse_cpu_model


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        ("host", "host", {}),
        ("EPYC,+avx,-smep", "EPYC", {"avx": "on", "smep": "off"}),
        ("EPYC,avx=off,tsc-frequency=2000", "EPYC", {"avx": "off", "tsc-frequency": "2000"}),
        ("host,+kvm_pv_unhalt", "host", {"kvm-pv-unhalt": "on"}),
        ("host,kvm-pv-unhalt", "host", {"kvm-pv-unhalt": "on"}),
        ("host,x=on,x=off", "host", {"x": "off"}),
        ("host,x=yes,y=true,z=y", "host", {"x": "on", "y": "on", "z": "on"}),
        ("host,x=no,y=false,z=n", "host", {"x": "off", "y": "off", "z": "off"}),
        ("Skylake-Server-v4", "Skylake-Server-v4", {}),
    ],
)
def test_a_model_and_its_features(text: str, name: str, features: dict[str, str]) -> None:
    model = parse_cpu_model(text)
    assert (model.name, dict(model.features)) == (name, features)


def test_named_models_have_lists_of_their_own() -> None:
    assert [parse_cpu_model(name).named for name in ("host", "max,-avx", "EPYC")] == [
        False,
        False,
        True,
    ]
    assert parse_cpu_model("EPYC,+avx").is_on("avx")
    assert parse_cpu_model("EPYC,-avx").is_off("avx")
    assert not parse_cpu_model("EPYC").is_off("avx")
