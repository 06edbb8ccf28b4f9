#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Boots Debian's stock kernel in a virtual machine, runs one command in it as root, and ends with the command's status.
#     scripts/kernel-vm.sh [--seconds N] [--verbose] COMMAND [ARGUMENT...]
# The guest sees this system's root folder, and what it writes there is thrown away; of networks it has only lo. The
# kernel's package is downloaded by apt-get and unpacked into the cache, not installed; --prepare does no more than that.
# Other statuses: 124 after the time limit, 125 when the guest never came so far as to run the command.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/satipsec/kernel-vm
init=$(cd "$(dirname "$0")" && pwd)/kernel-vm-init.sh
seconds=240
verbose=

fail() {
    echo "kernel-vm: $*" >&2
    exit 125
}

for tool in qemu-system-x86_64 busybox cpio depmod python3 flock; do
    command -v "$tool" >/dev/null || fail "$tool is missing; scripts/setup.sh installs it"
done

# The kernel without its compression, which takes seconds to undo where the processor is emulated; as it is where the
# compression is one that Python does not know.
unpack_kernel() { # COMPRESSED PLAIN
    python3 - "$1" "$2" <<'PYTHON' || ln -s "$(basename "$1")" "$2"
import gzip, lzma, struct, sys

image = open(sys.argv[1], "rb").read()
# The boot protocol's header (Documentation/arch/x86/boot.rst): setup sectors, payload's offset and length.
start = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
payload = image[start : start + struct.unpack_from("<I", image, 0x24C)[0]]
if payload.startswith(b"\xfd7zXZ"):
    plain = lzma.LZMADecompressor().decompress(payload)
elif payload.startswith(b"\x1f\x8b"):
    plain = gzip.decompress(payload[:-4])
else:
    sys.exit(1)
if not plain.startswith(b"\x7fELF"):
    sys.exit(1)
open(sys.argv[2], "wb").write(plain)
PYTHON
}

fetch_kernel() {
    local work package
    work=$(mktemp -d "$cache/work.XXXXXX")
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || fail "apt-get knows no linux-image-amd64; run apt-get update"
    (cd "$work" && apt-get download --quiet "$package" >apt.log 2>&1) || fail "no kernel: $(tail -n 3 "$work/apt.log")"
    dpkg-deb --extract "$work/$package"_*.deb "$work/root"
    local release
    release=$(ls "$work/root/lib/modules")
    depmod --basedir "$work/root" "$release"
    unpack_kernel "$work/root/boot/vmlinuz-$release" "$work/root/boot/vmlinux"
    echo "$release" >"$work/root/release"
    mv "$work/root" "$cache/kernel"
    rm -rf "$work"
}

# What the guest needs before it sees this system's files: busybox, and the drivers for them in their order.
build_initramfs() {
    local work release module
    work=$(mktemp -d "$cache/work.XXXXXX")
    release=$(cat "$cache/kernel/release")
    mkdir -p "$work"/{bin,dev,proc,sys,modules,lower,upper,root,share}
    cp "$(command -v busybox)" "$work/bin/busybox"
    cp "$init" "$work/init"
    chmod 755 "$work/init"
    for module in virtio_pci 9p 9pnet_virtio overlay; do
        modprobe --dirname "$cache/kernel" --set-version "$release" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
        cp "$path" "$work/modules/"
        basename "$path" >>"$work/modules/order"
    done
    (cd "$work" && find . | cpio --quiet --create --format=newc) >"$cache/initramfs.new"
    mv "$cache/initramfs.new" "$cache/initramfs"
    rm -rf "$work"
}

prepare() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    [ -e "$cache/kernel/release" ] || fetch_kernel
    if [ ! -e "$cache/initramfs" ] || [ "$init" -nt "$cache/initramfs" ]; then build_initramfs; fi
    exec 9>&-
}

prepared_only=
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) seconds=$2 && shift 2 ;;
    --verbose) verbose=yes && shift ;;
    --prepare) prepared_only=yes && shift ;;
    --*) fail "$1 is no option; see the head of $0" ;;
    *) break ;;
    esac
done
prepare
[ -z "$prepared_only" ] || exit 0
[ $# -gt 0 ] || fail "no command"

share=$(mktemp -d)
machine=
trap '[ -z "$machine" ] || kill "$machine" 2>/dev/null; rm -rf "$share"' EXIT
trap "exit 125" INT TERM
{
    printf 'cd %q\nexport PATH=%q HOME=/root LANG=C.UTF-8 SATIPSEC_KERNEL_VM=yes SWIFT_BACKTRACE=enable=no\nexec' \
        "$PWD" "/usr/sbin:/usr/bin:/sbin:/bin"
    printf ' %q' "$@"
    echo
} >"$share/command"
printf 'release=%q\nmodules=%q\n' "$(cat "$cache/kernel/release")" "$(cd "$cache" && pwd -P)/kernel/lib/modules" \
    >"$share/settings"

# An emulated /dev/kvm of another hypervisor does not run a stock kernel: the processor itself must have it.
if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
    accelerator=(-accel kvm -cpu host)
else
    accelerator=(-accel "tcg,thread=multi" -cpu max)
fi
options=local,security_model=none,multidevs=remap
set +e
timeout --kill-after=5 "$seconds" qemu-system-x86_64 "${accelerator[@]}" -smp 2 -m 1536 -nodefaults -no-user-config \
    -display none -no-reboot -nic none -kernel "$cache/kernel/boot/vmlinux" -initrd "$cache/initramfs" \
    -append "console=ttyS0 panic=-1 quiet mitigations=off cryptomgr.notests=1 random.trust_cpu=on tsc=unstable" \
    -chardev "file,id=log,path=$share/log" -device isa-serial,chardev=log \
    -chardev stdio,id=out,signal=off -device isa-serial,chardev=out \
    -device isa-debug-exit,iobase=0xf4,iosize=4 \
    -fsdev "$options,id=root,path=/,readonly=on" -device virtio-9p-pci,fsdev=root,mount_tag=root \
    -fsdev "$options,id=share,path=$share,readonly=on" -device virtio-9p-pci,fsdev=share,mount_tag=share \
    </dev/null 2>"$share/errors" &
machine=$!
wait $machine
status=$?
machine=
[ -z "$verbose" ] || cat "$share/log" >&2
# The device makes 2 v + 1 of what the guest writes, which is the command's status and one.
if [ $status -eq 124 ] || [ $status -eq 137 ]; then
    echo "kernel-vm: the time limit of $seconds s has passed" >&2
    exit 124
elif [ $status -ge 3 ] && [ $((status % 2)) -eq 1 ]; then
    exit $(((status - 3) / 2))
fi
tail -n 20 "$share/log" "$share/errors" >&2
fail "the guest ended without a status (qemu's is $status)"
