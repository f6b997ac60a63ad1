#!/usr/bin/busybox sh
# The first process on an older kernel: makes the host that the suites expect, runs those that /suites lists, and switches off.
# What a suite says goes to the second serial port; the first one is the kernel's.

export PATH=/usr/sbin:/usr/bin:/usr/lib/busybox HOME=/root LANG=C.UTF-8 POSTERN_BIN=/opt/postern/postern

/usr/bin/busybox mkdir -p /usr/lib/busybox
/usr/bin/busybox --install -s /usr/lib/busybox

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
ln -s /proc/self/fd /dev/fd

# In the order in which they depend on each other.
for module in /modules/*; do
    insmod "$module" || echo "init: $module cannot be loaded"
done
hostname older

# What runs is hashed only where it lies on a disk's file system, so the programs and /tmp lie on one, of memory.
truncate -s 1G /disk
mke2fs -q -F /disk
mkdir /mnt
mount -o loop /disk /mnt
cp -a /opt/postern /mnt/postern
mkdir -m 1777 /mnt/tmp
mount --bind /mnt/postern /opt/postern
mount --bind /mnt/tmp /tmp

ip link set lo up
ulimit -n 65536

exec >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 -onlcr -echo
while read -r name file; do
    echo "@begin $name"
    "$file" </dev/null
    echo "@end $name $?"
done </suites
sync
# qemu is told to end where the machine would start again.
reboot -f
