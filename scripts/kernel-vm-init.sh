#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of the virtual machine of kernel-vm.sh: mounts the host's files under a layer for what is written, runs the
# command, and hands its status to the emulator.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys

give_up() {
    echo "kernel-vm: $*" >/dev/ttyS0
    $b poweroff -f
}

while read -r module; do
    $b insmod "/modules/$module" || give_up "$module does not load"
done </modules/order
how=trans=virtio,version=9p2000.L,msize=524288
$b mount -t 9p -o "$how,ro,cache=loose" root /lower || give_up "no files of the host"
$b mount -t 9p -o "$how,ro" share /share || give_up "no command"
$b mount -t tmpfs tmpfs /upper
$b mkdir /upper/data /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root || give_up "no overlay"
. /share/settings
$b mount -t devtmpfs dev /root/dev
$b mount -t proc proc /root/proc
$b mount -t sysfs sys /root/sys
for folder in dev/shm dev/pts run tmp; do $b mkdir -p "/root/$folder"; done
$b mount -t devpts devpts /root/dev/pts
for folder in dev/shm run; do $b mount -t tmpfs tmpfs "/root/$folder"; done
$b ln -sf /proc/self/fd /root/dev/fd
$b mkdir -p "/root/lib/modules/$release"
$b mount -o bind "/root$modules/$release" "/root/lib/modules/$release" || give_up "no modules"
# The kernel asks for modules outside of the host's files; they are inside.
printf '#!/bin/busybox sh\nexec /bin/busybox chroot /root /sbin/modprobe "$@"\n' >/bin/modprobe
$b chmod 755 /bin/modprobe
echo /bin/modprobe >/proc/sys/kernel/modprobe
$b ifconfig lo 127.0.0.1 up
$b cp /share/command /root/run/command
$b stty -F /dev/ttyS1 raw
$b chroot /root /bin/bash /run/command </dev/null >/dev/ttyS1 2>&1
status=$?
[ $status -le 125 ] || status=125
printf "\\x$(printf %02x $((status + 1)))" | $b dd of=/dev/port bs=1 seek=244 2>/dev/ttyS0
give_up "the status could not be told"
