#!/usr/bin/env bash
# Makes the guest of `make test-vm`, once: kernel, ZFS modules, root file system. Does nothing where it is there already.
#
# A kernel of Debian without the machine's own, the modules of zfs-dkms compiled for it, and a root file system with
# PostgreSQL and the tools of ZFS, LVM, md and dm-crypt. Each part is made beside its place and moved there when it is
# complete: a run that was killed is taken up where it was, and a half part is never used.
#
# Needs root, Debian's packages through apt, half an hour of one processor and 2 GB in BARMAN_SNAP_VM (default
# /var/tmp/barman-snap-vm). Ends with status 77 and the reason where it cannot be had.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ "$(uname -m)" = x86_64 ] || skip "the guest is made for x86_64 only"
[ "$(id -u)" = 0 ] || skip "making the guest needs root"
{ has apt-get && has dpkg; } || skip "the guest is made of Debian packages, and there is no apt here"
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$KEYRING" ] || skip "the keys of Debian are not here: $KEYRING (package debian-archive-keyring)"

# shellcheck disable=SC2174 # What is above it is there.
mkdir -p -m 0755 "$VM"
{ [ -O "$VM" ] && [ ! -L "$VM" ]; } || die "$VM belongs to another user, or is a link"
VM=$(cd "$VM" && pwd -P)
exec 8>"$VM/lock"
flock 8

host_packages() {
    local missing=()
    has qemu-system-x86_64 || missing+=(qemu-system-x86)
    has mmdebstrap || missing+=(mmdebstrap)
    has mkfs.ext4 || missing+=(e2fsprogs)
    [ -x /usr/lib/qemu/virtiofsd ] || [ -x /usr/libexec/virtiofsd ] || missing+=(qemu-system-common)
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        skip "apt does not give ${missing[*]}"
}

# A private apt: the suite of the guest, whatever the machine runs, from the mirror of the machine.
private_apt() {
    local mirror
    # shellcheck disable=SC2016 # Names of apt's, not of the shell.
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 !~ /-/ {print $3; exit}')
    [ -n "$mirror" ] || skip "apt names no mirror of Debian"
    mkdir -p "$VM/apt/lists/partial" "$VM/apt/cache/archives/partial"
    : >"$VM/apt/status"
    echo "deb [signed-by=$KEYRING] $mirror $SUITE main contrib" >"$VM/apt/sources.list"
    cat >"$VM/apt/apt.conf" <<END
Dir::State "$VM/apt";
Dir::State::lists "$VM/apt/lists";
Dir::State::status "$VM/apt/status";
Dir::Cache "$VM/apt/cache";
Dir::Etc::sourcelist "$VM/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
END
    APT_CONFIG=$VM/apt/apt.conf apt-get -qq update || skip "the packages of $SUITE cannot be had from $mirror"
}

# fetch DIRECTORY PACKAGE... downloads packages of the guest's suite and unpacks them there.
fetch() {
    local directory=$1 package
    shift
    rm -rf "$directory" "$directory.debs"
    mkdir -p "$directory" "$directory.debs"
    (cd "$directory.debs" && APT_CONFIG=$VM/apt/apt.conf apt-get -qq download "$@") || return 1
    for package in "$directory.debs"/*.deb; do dpkg -x "$package" "$directory"; done
    rm -rf "$directory.debs"
}

# chroot_of DIRECTORY NAMES [option...] makes a small Debian there.
chroot_of() {
    local directory=$1 names=$2
    shift 2
    rm -rf "${directory:?}"
    heavy mmdebstrap --quiet --mode=root --variant=minbase --keyring="$KEYRING" --include="$names" \
        --aptopt='Apt::Install-Recommends "false"' --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$@" \
        "$SUITE" "$directory" "$VM/apt/sources.list"
}

kernel() {
    [ ! -e "$VM/kernel/release" ] || return 0
    say "fetching the kernel"
    local release
    release=$(APT_CONFIG=$VM/apt/apt.conf apt-cache depends "linux-image-$FLAVOUR" |
        sed -n 's/.*Depends: linux-image-\([0-9].*\)$/\1/p' | head -n 1)
    [ -n "$release" ] || skip "apt has no kernel linux-image-$FLAVOUR"
    fetch "$VM/kernel.part" "linux-image-$release" || skip "the kernel linux-image-$release cannot be fetched"
    echo "$release" >"$VM/kernel.part/release"
    rm -rf "$VM/kernel"
    mv "$VM/kernel.part" "$VM/kernel"
}

# The modules of ZFS, compiled in a chroot with the kernel's headers.
modules() {
    [ ! -d "$VM/modules" ] || return 0
    local release build=$VM/build source
    release=$(cat "$VM/kernel/release")
    if ! same_as "$build/made-for" "$release"; then
        say "making a place to compile the modules in"
        chroot_of "$build" "linux-headers-$release,$COMPILER,make,kmod,xz-utils,libc6-dev" || die "cannot make $build"
        echo "$release" >"$build/made-for"
    fi
    if [ ! -d "$VM/zfs" ]; then
        fetch "$VM/zfs.part" zfs-dkms || skip "apt has no zfs-dkms"
        mv "$VM/zfs.part" "$VM/zfs"
    fi
    source=$(basename "$(echo "$VM"/zfs/usr/src/zfs-*)")
    if [ ! -e "$build/usr/src/$source/configured" ]; then
        say "configuring $source (a few minutes)"
        rm -rf "${build:?}/usr/src/$source"
        cp -a "$VM/zfs/usr/src/$source" "$build/usr/src/"
        heavy chroot "$build" bash -c "cd /usr/src/$source && ./configure --quiet --disable-dependency-tracking \
            --with-config=kernel --with-linux=/usr/src/linux-headers-${release%-"$FLAVOUR"}-common \
            --with-linux-obj=/usr/src/linux-headers-$release KERNEL_CC=$COMPILER CC=$COMPILER" >"$VM/configure.log" 2>&1 ||
            die "cannot configure the modules: see $VM/configure.log"
        touch "$build/usr/src/$source/configured"
    fi
    say "compiling $source (about ten minutes of one processor, once)"
    # Without debug information, which takes a third of the time.
    heavy chroot "$build" bash -c "cd /usr/src/$source && make -j$(nproc) KCFLAGS=-g0" >"$VM/make.log" 2>&1 ||
        die "cannot compile the modules: see $VM/make.log"
    rm -rf "$VM/modules.part"
    mkdir "$VM/modules.part"
    find "$build/usr/src/$source/module" -name '*.ko' -exec cp {} "$VM/modules.part/" \;
    strip -g "$VM/modules.part"/*.ko
    [ -e "$VM/modules.part/zfs.ko" ] || die "no zfs.ko was made: see $VM/make.log"
    mv "$VM/modules.part" "$VM/modules"
    # The modules are kept; what made them is most of the space.
    rm -rf "$build"
}

# The root file system without the modules of ZFS, so that it can be made meanwhile.
root() {
    same_as "$VM/root/made-of" "$PACKAGES" && return 0
    say "making the root file system (a few minutes)"
    local root=$VM/root.part release
    release=$(cat "$VM/kernel/release")
    # No cluster of the packages' own: that one would be initialized here, and lie where no test looks for it.
    # shellcheck disable=SC2016 # $1 is mmdebstrap's.
    chroot_of "$root" "$PACKAGES" \
        --essential-hook='mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' ||
        die "cannot make $root"
    rm -rf "$root"/usr/lib/x86_64-linux-gnu/lib{LLVM,z3}* "$root"/usr/lib/postgresql/15/lib/bitcode "$root"/var/cache/apt/*
    rm -f "$root"/usr/lib/postgresql/15/lib/llvmjit*.so
    mkdir -p "$root/host" "$root/lib/modules"
    cp -a "$VM/kernel/lib/modules/$release" "$root/lib/modules/"
    rm -rf "$root/lib/modules/$release/kernel"/net/{bluetooth,wireless,netfilter,openvswitch,tipc,sctp,sched,mac80211,sunrpc} \
        "$root/lib/modules/$release/kernel"/drivers/{gpu,hid,infiniband,media,sound,usb}
    [ -s "$root/etc/machine-id" ] || echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
    echo vmguest >"$root/etc/hostname"
    echo '127.0.0.1 localhost vmguest' >"$root/etc/hosts"
    echo "$PACKAGES" >"$root/made-of"
    rm -rf "$VM/root"
    mv "$root" "$VM/root"
}

# A cluster to be copied in the guest, and programs that do so.
template() {
    local bin=/usr/local/lib/pg/bin program
    if [ ! -d "$VM/root/var/lib/postgresql/template" ]; then
        mkdir -p "$VM/root/dev/shm"
        chroot "$VM/root" runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb --no-sync -A trust -E UTF8 --locale C.UTF-8 \
            -U postgres --data-checksums -D /var/lib/postgresql/template.part >"$VM/initdb.log" 2>&1 || die "see $VM/initdb.log"
        # What it found out is about the machine that makes the image.
        sed -i 's/^dynamic_shared_memory_type.*/dynamic_shared_memory_type = posix/' \
            "$VM/root/var/lib/postgresql/template.part/postgresql.conf"
        mv "$VM/root/var/lib/postgresql/template.part" "$VM/root/var/lib/postgresql/template"
    fi
    mkdir -p "$VM/root$bin"
    for program in "$VM/root"/usr/lib/postgresql/15/bin/*; do
        ln -sfn "/usr/lib/postgresql/15/bin/$(basename "$program")" "$VM/root$bin/"
    done
    rm -f "$VM/root$bin/initdb"
    install -m 755 "$ROOT/tools/vm/initdb.sh" "$VM/root$bin/initdb"
}

# What the image was made of: scripts are parts of it, too, and the quickest to change.
parts() { echo "$(cat "$VM/kernel/release") $PACKAGES $(cat "$ROOT/tools/vm/init.sh" "$ROOT/tools/vm/initdb.sh" | cksum)"; }

image() {
    local release
    release=$(cat "$VM/kernel/release")
    if [ -e "$VM/root.img" ] && same_as "$VM/root.img.made-of" "$(parts)"; then return 0; fi
    say "making the image"
    mkdir -p "$VM/root/lib/modules/$release/extra"
    cp "$VM/modules"/*.ko "$VM/root/lib/modules/$release/extra/"
    install -m 755 "$ROOT/tools/vm/init.sh" "$VM/root/init.sh"
    template
    chroot "$VM/root" depmod "$release"
    rm -f "$VM/root.img.part"
    heavy mkfs.ext4 -q -F -L root -d "$VM/root" "$VM/root.img.part" 1500M >/dev/null
    mv "$VM/root.img.part" "$VM/root.img"
    parts >"$VM/root.img.made-of"
}

ready() {
    [ -e "$VM/root.img" ] && [ -d "$VM/modules" ] && [ -e "$VM/kernel/release" ] &&
        same_as "$VM/root.img.made-of" "$(parts)"
}

host_packages
if ready; then exit 0; fi
[ -d "$VM/kernel" ] && [ -d "$VM/modules" ] && [ -d "$VM/root" ] || private_apt
kernel
modules
root
image
say "the guest is ready: $VM"
