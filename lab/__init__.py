"""KVM hosts in software: real Linux hosts with AMD SVM, emulated by QEMU, on any machine.

`./dev lab` is the command line of it (docs/lab.md), `lab.lab.Lab` the same for tests and benches:

    from lab.lab import Lab

    async with Lab.up(hosts=2) as lab:
        a, b = lab.hosts
        print((await a.run("uname -r")).text)

The package is no part of vmferry's wheel. It may import vmferry; vmferry never imports it.
"""
