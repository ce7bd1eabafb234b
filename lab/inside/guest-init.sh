#!/bin/bash
# Process 1 of a nested guest: mounts, its network by lab.ip=ADDRESS/BITS, a shell on the serial port,
# and the agent.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,gid=5 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t debugfs debugfs /sys/kernel/debug
for module in virtio_console virtio_net virtio_rng virtio_balloon; do
    modprobe -q "$module"
done
ip link set lo up
hostname guest
for word in $(</proc/cmdline); do
    case $word in
    lab.ip=*)
        ip link set eth0 up
        ip address add "${word#*=}" dev eth0
        ;;
    lab.name=*) hostname "${word#*=}" ;;
    esac
done
if [ -c /dev/ttyS0 ]; then
    while :; do setsid -c bash -l </dev/ttyS0 >/dev/ttyS0 2>&1; sleep 1; done &
fi
echo "lab: guest is up"
while :; do
    PYTHONPATH=/lab/python python3 -m lab.inside.agent lab. </dev/null
    sleep 1
done
