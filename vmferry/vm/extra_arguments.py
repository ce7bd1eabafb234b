"""Extra QEMU arguments: which ones would collide with what vmferry sets, and why."""

from __future__ import annotations

_OWN = "vmferry sets it"
_REFUSED = {
    "-S": "vmferry decides when the vCPUs start",
    "-incoming": "vmferry sets it on the destination of a move",
    "-qmp": "vmferry has its own QMP sockets",
    "-qmp-pretty": "vmferry has its own QMP sockets",
    "-mon": "vmferry has its own QMP sockets",
    "-monitor": "vmferry has its own QMP sockets; `vmferry status` looks inside",
    "-daemonize": "vmferry detaches QEMU itself",
    "-pidfile": "vmferry keeps the pid itself",
    "-name": "use name",
    "-m": "use memory.size",
    "-mem-path": "use memory.backend and memory.path",
    "-mem-prealloc": "use memory.backend",
    "-smp": "use cpu.count",
    "-cpu": "use cpu.model",
    "-machine": "use qemu.machine",
    "-M": "use qemu.machine",
    "-accel": "use qemu.accelerator",
    "-enable-kvm": "use qemu.accelerator",
    "-kernel": "use boot.kernel",
    "-initrd": "use boot.initrd",
    "-append": "use boot.append",
    "-display": _OWN,
    "-nographic": _OWN,
    "-nodefaults": _OWN,
    "-no-user-config": _OWN,
    "-readconfig": "vmferry cannot check what is in that file",
    "-loadvm": "a destination of a move cannot start from a snapshot",
    "-snapshot": "what the guest writes would not come along in a move",
    "-preconfig": "QEMU would wait for a command that vmferry does not send",
    "-chroot": "QEMU could not find its sockets",
    "-s": "two instances on one host would collide; use -gdb unix:{instance}/gdb.sock,server",
    "-h": "QEMU would end at once",
    "-help": "QEMU would end at once",
    "-version": "QEMU would end at once",
}
# Sockets and files that two instances on one host must not share.
_PER_INSTANCE = {"-vnc": "unix:{instance}/vnc.sock", "-gdb": "unix:{instance}/gdb.sock,server"}
_PER_INSTANCE["-D"] = "{instance}/qemu.log"


def check_extra_arguments(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """`arguments` themselves. Raises ValueError that names the argument and the reason."""
    for index, argument in enumerate(arguments):
        if not argument.startswith("-"):
            continue
        # QEMU takes two dashes for one.
        option = argument[1:] if argument.startswith("--") else argument
        if option in _REFUSED:
            raise ValueError(f"{argument} is not allowed: {_REFUSED[option]}")
        value = arguments[index + 1] if index + 1 < len(arguments) else ""
        if option in _PER_INSTANCE and value != "none" and "{instance}" not in value:
            raise ValueError(
                f"{argument} {value}: two instances on one host would collide; "
                f"use {argument} {_PER_INSTANCE[option]}"
            )
    return arguments
