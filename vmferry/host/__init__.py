"""Where a hypervisor runs: this machine's folders, processes and threads."""
