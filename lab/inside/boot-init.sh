#!/bin/sh
# The first program of hosts and guests, in their initial RAM disk: finds the file system that
# lab.root= names by its label and goes on there. With lab.overlay=1 what is written goes to memory.
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /new
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# insmod does not look for a module's parameters on the kernel's line, as modprobe does.
while read -r module; do
    # shellcheck disable=SC2046  # one word for each parameter
    insmod "/modules/$module.ko" $(tr ' ' '\n' </proc/cmdline | sed -n "s/^$module\.//p")
done </modules/order

label='' overlay=''
# shellcheck disable=SC2013  # words are wanted
for word in $(cat /proc/cmdline); do
    case $word in
    lab.root=*) label=${word#*=} ;;
    lab.overlay=1) overlay=1 ;;
    esac
done

tries=0
until device=$(findfs "LABEL=$label" 2>/dev/null); do
    tries=$((tries + 1))
    if [ $tries -gt 100 ]; then
        echo "lab: there is no disk with a file system '$label'"
        exec sh
    fi
    sleep 0.1
done

if [ -n "$overlay" ]; then
    mkdir -p /below /memory
    mount -t ext4 -o ro,noatime "$device" /below
    mount -t tmpfs -o mode=755 memory /memory
    mkdir /memory/upper /memory/work
    mount -t overlay -o lowerdir=/below,upperdir=/memory/upper,workdir=/memory/work root /new
else
    mount -t ext4 -o rw,noatime "$device" /new
fi
mount --move /dev /new/dev
mount --move /proc /new/proc
mount --move /sys /new/sys
exec switch_root /new /lab/init
