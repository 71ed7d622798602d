#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the test guest's initramfs in the cache folder: busybox, the virtio modules of the guest
# kernel, mkfs.ext4 with its libraries, our own tools, our init. Named after a hash of all
# that, so that it is built once. Prints `kernel=PATH`, `initramfs=PATH` and `pattern=PATH` (the same
# tool, for the host). scripts/setup.sh --for demo has brought the kernel.
#
#   scripts/guest/build.sh [PROGRAM…]     with these programs of the host's, too
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}
modules=(virtio_pci virtio_mmio virtio_blk virtio_net)
spare=(8021q) # loaded by the jobs that need them
tool=("$here/pattern.c" "$here/churn.c")

die() { printf 'guest: %s\n' "$*" >&2; exit 1; }

kernel=$(find "$cache/kernel/boot" -name 'vmlinuz-*' 2>/dev/null | sort -V | tail -n 1)
[ -n "$kernel" ] || die "no guest kernel in $cache/kernel; run scripts/setup.sh --for demo"
version=${kernel##*/vmlinuz-}
busybox=$(command -v busybox) || die "busybox is missing; run scripts/setup.sh --for demo"
mkfs=$(PATH=$PATH:/usr/sbin:/sbin command -v mkfs.ext4) || die "mkfs.ext4 is missing; run scripts/setup.sh --for demo"
ldd "$busybox" >/dev/null 2>&1 && die "$busybox is not static; install busybox-static"
programs=("$mkfs")
for name in "$@"; do
  programs+=("$(PATH=$PATH:/usr/sbin:/sbin command -v "$name")") || die "$name is missing; run scripts/setup.sh --for test"
done

hash=$({ cat "$here/build.sh" "$here/init" "${tool[@]}" "$here"/{sector.h,xdp.c} "$busybox" "${programs[@]}"; echo "$version ${modules[*]}"; } |
       sha256sum | cut -c 1-16)
image=$cache/initramfs-$hash.cpio
pattern=$cache/pattern-$hash

# A folder with all that the guest needs.
fill() {
  local root=$1 base=$cache/kernel/lib/modules/$version file library name
  mkdir -p "$root"/{bin,dev,etc,lib,lib64,mnt,proc,sys,tmp} "$root/lib/modules/$version"
  cp "$busybox" "$root/bin/busybox"
  for name in $("$busybox" --list); do
    [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
  done
  cp "$here/init" "$root/init"
  cp "$pattern" "$root/bin/pattern"

  # busybox has a mkfs.ext2 alone; a journal makes the disk work harder, and flush.
  for name in "${programs[@]}"; do
    cp "$name" "$root/bin/"
    ldd "$name" | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | while read -r library; do
      case $library in
        */ld-linux*) cp -L "$library" "$root/lib64/" ;;
        *) cp -L "$library" "$root/lib/" ;;
      esac
    done
  done

  # The wanted modules and what they need. The package brings no modules.dep: its install script
  # would have made one.
  "$busybox" depmod -n -b "$cache/kernel" "$version" | sed '/^#/d' >"$root/all.dep"
  for name in "${modules[@]}" "${spare[@]}"; do
    grep -E "^[^:]*/$name\.ko[^:]*:" "$root/all.dep" | tr -d : | tr ' ' '\n'
  done | sort -u | while read -r file; do
    mkdir -p "$root/lib/modules/$version/$(dirname "$file")"
    cp "$base/$file" "$root/lib/modules/$version/$file"
    grep -F "$file:" "$root/all.dep" | grep "^$file:" >>"$root/lib/modules/$version/modules.dep"
  done
  rm "$root/all.dep"
  printf '%s\n' "${modules[@]}" >"$root/lib/modules/wanted"
}

if [ ! -e "$image" ] || [ ! -e "$pattern" ]; then
  work=$(mktemp -d "$cache/initramfs.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -static -o "$work/pattern" "${tool[@]}" ||
    die "cannot build the pattern tool; run scripts/setup.sh --for build"
  mv "$work/pattern" "$pattern"
  mkdir "$work/root"
  fill "$work/root"
  ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -static -o "$work/root/bin/xdp" "$here/xdp.c" ||
    die "cannot build the XDP tool; run scripts/setup.sh --for build"
  # Not compressed: an emulated CPU takes longer to unpack it than the disk takes to read it.
  (cd "$work/root" && find . -print0 | cpio --quiet -0 -o -H newc -R 0:0) >"$work/image"
  mv "$work/image" "$image"
fi

printf 'kernel=%s\ninitramfs=%s\npattern=%s\n' "$kernel" "$image" "$pattern"
