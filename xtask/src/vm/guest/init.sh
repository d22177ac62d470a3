#!/bin/busybox sh
# First process of a test machine. Runs /vm/job, or boots the system on the first disk, depending on
# /etc/start. The output of the job goes to the port "log", with the exit status in the last line. Only
# the kernel writes to the console.
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
# The modprobe of busybox cannot load compressed modules.
while read -r module || [ -n "$module" ]; do /sbin/modprobe -q "$module"; done < /etc/modules

if [ "$(cat /etc/start)" = disk ]; then
    until [ -b /dev/vda ]; do sleep 0.1; done
    mount -t ext4 -o rw /dev/vda /newroot || poweroff -f
    modules=/lib/modules/$(uname -r)
    if [ ! -d "/newroot$modules" ]; then
        mkdir -p /newroot/lib/modules
        cp -a "$modules" /newroot/lib/modules/
    fi
    cp -a /payload/. /newroot/
    for directory in proc sys dev run; do mount --move /$directory /newroot/$directory; done
    exec switch_root /newroot /lib/systemd/systemd
fi

# The tests read files at the paths of the source tree, which may be below /tmp. Keep these files.
mkdir /kept && cp -a /tmp/. /kept/
mount -t tmpfs tmpfs /tmp
cp -a /kept/. /tmp/ && rm -r /kept
chmod 1777 /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
# aya reads the kernel's BTF whenever it loads an object, which takes a third of the load time here. The
# guard does not need the BTF, so hide it.
[ ! -d /sys/kernel/btf ] || mount -t tmpfs tmpfs /sys/kernel/btf
ip link set lo up
hostname vm
until port=$(grep -lx log /sys/class/virtio-ports/*/name); do sleep 0.1; done
port=${port%/name}
exec > "/dev/${port##*/}" 2>&1
echo "@@up $(cut -d' ' -f1 /proc/uptime)"
cd /vm && /vm/job < /dev/null
echo "@@end $?"
poweroff -f
