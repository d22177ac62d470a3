#!/bin/sh
# Runs /vm/job in a system that has booted. The output goes to the port "log", with the exit status in
# the last line. Then the machine is shut down.
port=$(grep -lx log /sys/class/virtio-ports/*/name)
port=${port%/name}
exec > "/dev/${port##*/}" 2>&1 < /dev/null
echo "@@up $(cut -d' ' -f1 /proc/uptime)"
cd /vm && ./job
echo "@@end $?"
sync
systemctl poweroff --no-block
