# What the scripts of this folder share beside ../lib.sh. Sourced, never run; the caller has `set -euo pipefail`.
#
# Gives: VM (the folder of the guest's parts), skip, heavy, and what is in the guest. The folder is a cache: it may be deleted.

# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# The exit status of "cannot be had here", as distinct from "failed".
SKIPPED=77
VM=${BARMAN_SNAP_VM:-/var/tmp/barman-snap-vm}

# What is in the guest. Change it, and the parts that depend on it are made anew.
# shellcheck disable=SC2034 # Used where this is sourced.
SUITE=bookworm
# shellcheck disable=SC2034
FLAVOUR=cloud-amd64
# shellcheck disable=SC2034
COMPILER=gcc-12
PACKAGES=postgresql-15,postgresql-client-15,zfsutils-linux,lvm2,thin-provisioning-tools,mdadm,cryptsetup-bin,xfsprogs,e2fsprogs
PACKAGES+=,btrfs-progs,kmod,udev,iproute2,procps,fdisk,gdisk,dmsetup,nbd-client,nbd-server,strace,libfaketime,sudo

# Says why nothing is tested, and ends: in a run where everything has to be there that is a failure.
skip() {
    printf 'skipped: %s\n' "$*" >&2
    [ "${CI:-}" != true ] || exit 1
    exit $SKIPPED
}

# Runs a command that takes minutes, behind everything else on the machine.
heavy() { nice -n "${BARMAN_SNAP_VM_NICE:-19}" "$@"; }

# Names of packages beside the image, so that it is known for which ones it was made.
same_as() { [ -e "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# The program that shares a directory with the guest.
virtiofsd() {
    local program
    for program in /usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd; do
        [ ! -x "$program" ] || { echo "$program"; return; }
    done
}

# accelerator: how the guest is run: by the processor where that really works, else emulated, some twenty times slower.
#
# A /dev/kvm that can be opened says little inside of a virtual machine: a guest may hang there after its first instructions.
# So a kernel is tried that ends by itself, once for each boot of the machine.
accelerator() {
    local boot found
    if [ -n "${BARMAN_SNAP_VM_ACCEL:-}" ]; then
        echo "$BARMAN_SNAP_VM_ACCEL"
        return
    fi
    boot=$(cat /proc/sys/kernel/random/boot_id)
    if [ "$(cut -d' ' -f1 "$VM/accelerator" 2>/dev/null)" != "$boot" ]; then
        found="tcg,thread=multi"
        if [ -w /dev/kvm ] && timeout 15 qemu-system-x86_64 -accel kvm -cpu host -m 512 -nodefaults -no-user-config \
            -display none -no-reboot -kernel "$VM/kernel/boot/vmlinuz-$(cat "$VM/kernel/release")" -append "panic=-1" >/dev/null 2>&1; then
            found=kvm
        fi
        echo "$boot $found" >"$VM/accelerator"
    fi
    cut -d' ' -f2 "$VM/accelerator"
}

# guest DIRECTORY SECONDS [option...] runs the guest to its end, with DIRECTORY/share as its /host, and four empty disks. What
# the guest changes on its root is forgotten. The process ids of all that runs are in DIRECTORY, and it ends in any case.
guest() {
    local run=$1 seconds=$2 release disk accel share rc=0
    shift 2
    release=$(cat "$VM/kernel/release")
    accel=$(accelerator)
    # What is emulated has no processor of its own to be like.
    local cpu=max
    [ "$accel" != kvm ] || cpu=host
    "$(virtiofsd)" --socket-path="$run/share.sock" -o source="$run/share" -o cache=auto >"$run/virtiofsd.log" 2>&1 &
    share=$!
    local disks=()
    for disk in a b c d; do
        truncate -s 3G "$run/$disk.img"
        disks+=(-drive "file=$run/$disk.img,if=none,id=$disk,format=raw,cache=unsafe,discard=unmap" -device "virtio-blk-pci,drive=$disk,serial=disk$disk")
    done
    for _ in $(seq 100); do [ ! -S "$run/share.sock" ] || break; sleep 0.1; done
    heavy timeout --foreground --kill-after=10 "$seconds" qemu-system-x86_64 -accel "$accel" -cpu "$cpu" -smp 2 -m "${BARMAN_SNAP_VM_MEMORY:-2048}" \
        -nodefaults -no-user-config -display none -no-reboot \
        -object "memory-backend-memfd,id=mem,size=${BARMAN_SNAP_VM_MEMORY:-2048}M,share=on" -numa node,memdev=mem \
        -chardev "socket,id=vfs,path=$run/share.sock" -device vhost-user-fs-pci,chardev=vfs,tag=host -device virtio-rng-pci \
        -kernel "$VM/kernel/boot/vmlinuz-$release" \
        -append "root=/dev/nvme0n1 rw rootfstype=ext4 init=/init.sh console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on" \
        -drive "file=$VM/root.img,if=none,id=root,format=raw,cache=unsafe,snapshot=on" -device nvme,drive=root,serial=root \
        "${disks[@]}" "$@" || rc=$?
    kill "$share" 2>/dev/null || true
    wait "$share" 2>/dev/null || true
    return $rc
}
