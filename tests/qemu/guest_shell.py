"""Commands in a test guest, by the shell on its serial port."""

from __future__ import annotations

import secrets
import socket
import time

from tests.qemu.home import PATIENCE
from vmferry.hypervisor.qemu.instance import Instance


def in_guest(instance: Instance, command: str) -> list[str]:
    """The lines that a command prints in the guest; its errors too."""
    mark = secrets.token_hex(8)
    # Never the mark itself, which the terminal echoes.
    line = f"{command} 2>&1; echo '{mark[:8]}''{mark[8:]}'\n"
    end = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(instance.files.console_socket))
        console.sendall(line.encode())
        heard = b""
        while mark.encode() not in heard:
            console.settimeout(max(end - time.monotonic(), 0.01))
            part = console.recv(4096)
            assert part, f"the console was closed: {heard!r}"
            heard += part
    text = heard.decode(errors="replace").replace("\r", "")
    before = text[: text.index(mark)]
    # What was typed is shown first, broken into lines as the terminal likes.
    return [line for line in before.split(f"'{mark[8:]}'")[-1].split("\n")[1:] if line]
