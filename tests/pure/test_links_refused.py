"""A machine that refuses netlink keeps no VM from being stopped."""

from __future__ import annotations

import errno

import pytest

from vmferry.host.links import NetworkError, attach, remove_unused_bridge


def test_no_netlink_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr("pyroute2.IPRoute", refuse)
    with pytest.raises(NetworkError, match="not supported"):
        remove_unused_bridge("br0")
    with pytest.raises(NetworkError, match="not supported"):
        attach("tap0", "br0", create=False)
