#!/bin/bash
# Process 1 of a host: mounts, loads KVM and what guests' devices need, and keeps the agent running.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mkdir -p /dev/pts /dev/shm /dev/hugepages /run/lock
mount -t devpts -o mode=620,gid=5 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t hugetlbfs hugetlbfs /dev/hugepages
mount -t securityfs securityfs /sys/kernel/security
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
for module in virtio_console virtio_net virtio_rng kvm_amd tun bridge vhost_net sch_netem; do
    modprobe -q "$module" || echo "lab: no module $module"
done
ln -sf /proc/self/mounts /etc/mtab
echo "lab: host is up"
while :; do
    PYTHONPATH=/lab/python python3 -m lab.inside.agent lab. </dev/null
    sleep 0.5
done
