#!/bin/bash
# The first process of the guest: mounts what every Linux has, loads the modules, runs the job that the host has left in
# /host, writes its status beside it and switches the machine off. Without a job: a shell on the console.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
chmod 1777 /dev/shm /tmp
mkdir -p /run/lock /run/postgresql
chown postgres:postgres /run/postgresql
hostname vmguest
ip link set lo up
/lib/systemd/systemd-udevd --daemon
for module in virtio_pci virtio_blk virtiofs virtio_console dm_mod zfs; do modprobe "$module"; done
udevadm trigger --action=add --subsystem-match=block --subsystem-match=misc
udevadm settle -t 60
mount -t virtiofs host /host
echo "GUEST READY $(cut -d' ' -f1 /proc/uptime)" >/dev/ttyS0
if [ -e /host/job ]; then
    cd /host || exit
    setsid bash /host/job </dev/null >/host/output 2>&1
    echo $? >/host/status
else
    setsid bash --noprofile --norc </dev/ttyS0 >/dev/ttyS0 2>&1
fi
zpool export -a 2>/dev/null
sync
echo o >/proc/sysrq-trigger
sleep 60
