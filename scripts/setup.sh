#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what Sluice needs from the distribution, and nothing else: packages through apt, and, into
# a cache folder, a guest kernel and newer QEMUs to test with. Nothing outside of the cache folder
# changes except for the packages; the service that comes with one of them, Open vSwitch's, is kept off.
# Run it as often as you like: it is quick when nothing is missing.
#
#   scripts/setup.sh [--for build|demo|test|lint|bench|all] [--check]
set -euo pipefail

cache=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}
purpose=all
check_only=
# The tests put it elsewhere.
policy=${SLUICE_POLICY_RC_D:-/usr/sbin/policy-rc.d}

usage() {
  cat <<EOF
Usage: scripts/setup.sh [--for build|demo|test|lint|bench|all] [--check]

Installs what is missing from the distribution (apt, as root), and keeps a guest kernel and newer
QEMUs for the tests in $cache.

  --for WHAT  build: compilers and libraries; demo: build, QEMU and a guest kernel;
              test: demo, pytest and newer QEMUs; lint: the checkers;
              bench: build and the back-ends to compare with; all: everything (default)
  --check     install nothing: list what is missing, exit 1 if anything is
  --help      this text
EOF
}

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

while [ $# -gt 0 ]; do
  case $1 in
    --for) [ $# -ge 2 ] || die "--for needs a word: build, demo, test, lint, bench or all"; purpose=$2; shift 2 ;;
    --check) check_only=1; shift ;;
    --help|-h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

build_packages=(
  build-essential meson ninja-build pkg-config
  liburing-dev libsystemd-dev libnuma-dev liburcu-dev libdpdk-dev
  libyaml-dev libjansson-dev libcap-ng-dev libseccomp-dev libnbd-dev libcriterion-dev scdoc python3
)
guest_packages=(qemu-system-x86 busybox-static e2fsprogs cpio iproute2)
# LXC as a library: the package lxc would bring a bridge, a DHCP server and services.
test_packages=(python3-pytest python3-pytest-timeout python3-yaml qemu-utils qemu-system-common nbdkit gnutls-bin
               python3-lxc ethtool iperf3)
bench_packages=(dpdk-dev fio librsvg2-bin openvswitch-switch-dpdk python3-yaml qemu-system-common)
lint_packages=(clang libclang-rt-dev llvm clang-format clang-tidy cppcheck shellcheck)

wants_guest=
wants_qemus=
case $purpose in
  build) packages=("${build_packages[@]}") ;;
  demo) packages=("${build_packages[@]}" "${guest_packages[@]}"); wants_guest=1 ;;
  test) packages=("${build_packages[@]}" "${guest_packages[@]}" "${test_packages[@]}")
        wants_guest=1; wants_qemus=1 ;;
  lint) packages=("${build_packages[@]}" "${lint_packages[@]}") ;;
  bench) packages=("${build_packages[@]}" "${bench_packages[@]}") ;;
  all) packages=("${build_packages[@]}" "${guest_packages[@]}" "${test_packages[@]}" "${lint_packages[@]}"
                 "${bench_packages[@]}")
       wants_guest=1; wants_qemus=1 ;;
  *) die "--for $purpose: unknown; say build, demo, test, lint, bench or all" ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  die "this script knows Debian's apt only; install the equivalents of: ${packages[*]}"
fi

# Those of the packages that are not installed, one a line.
missing_of() {
  local installed p
  # dpkg-query fails if it has never heard of one of them, and lists the others all the same.
  # shellcheck disable=SC2016
  installed=$({ dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "$@" 2>/dev/null || true; } |
    awk '$1 ~ /^.i/ { print $2 }')
  for p in "$@"; do
    grep -qxF "$p" <<<"$installed" || echo "$p"
  done
}

apt_updated=
apt_update_once() {
  [ -z "$apt_updated" ] || return 0
  say "refreshing the package lists"
  apt-get -qq -o DPkg::Lock::Timeout=300 update </dev/null || say "apt-get update had errors; going on with what there is"
  apt_updated=1
}

# The benchmarks start Open vSwitch themselves, each time anew. As a service it would start with its installation and at
# each boot. Who has had it before is not interfered with, and a policy-rc.d that is there, as in containers, decides as
# it always does. /usr/sbin/ovs-vswitchd stays the plain one: of the alternatives the one with DPDK has less priority.
policy_mark="Made by scripts/setup.sh of Sluice, which removes it once the packages are installed."

keep_ovs_off() {
  # One of ours is there if a run was killed.
  if [ -e "$policy" ] && ! grep -qF "$policy_mark" "$policy"; then
    say "$policy decides whether Open vSwitch's services are started now"
    return 0
  fi
  rm -f "$policy"
  trap 'rm -f "$policy"' EXIT
  trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
  # All others are treated as without it: "(start)" is what is off at this run level (invoke-rc.d(8)).
  (set -C; umask 022; cat >"$policy") <<EOF || die "cannot write $policy, to keep Open vSwitch's services off"
#!/bin/sh
# $policy_mark
case "\$*" in *openvswitch*|*ovs*|*"("*) exit 101 ;; esac
[ -e /sbin/init ] || exit 101
EOF
  chmod 755 "$policy"
}

install_packages() {
  local -a missing
  local new_ovs=
  mapfile -t missing < <(missing_of "${packages[@]}")
  [ ${#missing[@]} -gt 0 ] || return 0
  [ -z "$check_only" ] || { say "missing packages: ${missing[*]}"; return 1; }
  if [[ " ${missing[*]} " = *" openvswitch-switch-dpdk "* ]] && [ -n "$(missing_of openvswitch-switch)" ]; then
    new_ovs=1
  fi
  [ "$(id -u)" = 0 ] ||
    die "packages are missing and you are not root; run: sudo apt-get install -y ${missing[*]}" \
      ${new_ovs:+"or, so that Open vSwitch's services stay off, sudo scripts/setup.sh --for bench"}
  apt_update_once
  say "installing ${#missing[@]} packages: ${missing[*]}"
  [ -z "$new_ovs" ] || keep_ovs_off
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends "${missing[@]}" </dev/null >"$cache/apt.log" 2>&1 ||
    { tail -20 "$cache/apt.log" >&2; die "apt-get could not install them; the whole log is in $cache/apt.log"; }
  [ -z "$new_ovs" ] || update-rc.d openvswitch-switch disable >>"$cache/apt.log" 2>&1 ||
    say "openvswitch-switch could not be disabled: it starts at the next boot (see $cache/apt.log)"
}

# unpack_into FOLDER APT-GET-ARGUMENT…: downloads packages and unpacks them into FOLDER, uninstalled.
unpack_into() {
  local folder=$1 tmp; shift
  tmp=$(mktemp -d "$cache/unpack.XXXXXX")
  mkdir "$tmp/partial" # where what is to be installed is downloaded to
  if (cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root "$@" -o "Dir::Cache::archives=$tmp" </dev/null) && mkdir "$tmp/root" &&
     (cd "$tmp" && for deb in *.deb; do dpkg -x "$deb" root || exit 1; done) &&
     rm -rf "$folder" && mv "$tmp/root" "$folder"; then
    rm -rf "$tmp"
  else
    rm -rf "$tmp"
    return 1
  fi
}

# The distribution's cloud kernel, unpacked: <cache>/kernel/{boot,lib}.
get_kernel() {
  compgen -G "$cache/kernel/boot/vmlinuz-*" >/dev/null && return 0
  [ -z "$check_only" ] || { say "missing: a guest kernel in $cache/kernel"; return 1; }
  local package
  kernel_package() {
    apt-cache show --no-all-versions linux-image-cloud-amd64 2>/dev/null |
      sed -n 's/^Depends: .*\(linux-image-[0-9][^ ,]*\).*/\1/p' | head -n 1
  }
  package=$(kernel_package)
  if [ -z "$package" ] && [ "$(id -u)" = 0 ]; then
    apt_update_once
    package=$(kernel_package)
  fi
  [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64; run: apt-get update"
  say "fetching the guest kernel $package"
  if ! unpack_into "$cache/kernel" download "$package"; then
    # The lists may be older than the archive.
    [ "$(id -u)" = 0 ] || die "cannot download $package; run: sudo apt-get update"
    apt_update_once
    unpack_into "$cache/kernel" download "$(kernel_package)" || die "cannot download $package"
  fi
}

# Into `private`: options by which apt-get sees these suites of Debian's alone, as on an empty machine, and keeps what it
# knows in `apt_dir`, which is to be removed. Wherever this machine gets Debian from, it gets its other suites from too.
private_archive() {
  local uri suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=
  # shellcheck disable=SC2016
  uri=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 == "bookworm" && $2 == "main" { print $3; exit }')
  [ -n "$uri" ] || { say "no archive of Debian 12 among apt's sources"; return 1; }
  [ ! -r "$keyring" ] || signed="[signed-by=$keyring] "
  apt_dir=$(mktemp -d "$cache/apt.XXXXXX")
  mkdir -p "$apt_dir/lists/partial" "$apt_dir/cache/archives/partial"
  : >"$apt_dir/status"
  for suite in "$@"; do
    echo "deb ${signed}$uri $suite main"
  done >"$apt_dir/sources.list"
  private=(-o "Dir::Etc::sourcelist=$apt_dir/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::status=$apt_dir/status"
           -o "Dir::State::lists=$apt_dir/lists" -o "Dir::Cache=$apt_dir/cache" -o APT::Sandbox::User=root)
}

on_bookworm() {
  # shellcheck source=/dev/null
  (. /etc/os-release && [ "${VERSION_CODENAME:-}" = bookworm ])
}

# QEMU 10 from the backports of Debian 12, unpacked beside the installed one: <cache>/qemu10/usr. It
# needs the same libraries as QEMU 7.2. The tests do without it, and say so, where it cannot be had.
get_qemu10() {
  local apt_dir='' private=()
  [ -x "$cache/qemu10/usr/bin/qemu-system-x86_64" ] && return 0
  on_bookworm || return 0
  [ -z "$check_only" ] || { say "missing: the backports' QEMU in $cache/qemu10"; return 1; }
  say "fetching the backports' QEMU"
  if ! { private_archive bookworm-backports && apt-get -qq "${private[@]}" update </dev/null &&
         unpack_into "$cache/qemu10" "${private[@]}" -t bookworm-backports download \
           qemu-system-x86 qemu-system-data seabios &&
         "$cache/qemu10/usr/bin/qemu-system-x86_64" --version >/dev/null; }; then
    rm -rf "$cache/qemu10"
    say "the backports' QEMU cannot be had: its tests will be skipped"
  fi
  [ -z "$apt_dir" ] || rm -rf "$apt_dir"
}

# QEMU 11 from the backports of Debian 13, with its libraries and their loader, which are newer than Debian 12's:
# <cache>/qemu11/qemu starts it. The tests do without it, and say so, where it cannot be had.
get_qemu11() {
  local apt_dir='' private=() root=$cache/qemu11/usr
  [ -x "$cache/qemu11/qemu" ] && return 0
  on_bookworm || return 0
  [ -z "$check_only" ] || { say "missing: Debian 13's backports' QEMU in $cache/qemu11"; return 1; }
  say "fetching QEMU 11"
  if ! { private_archive trixie trixie-backports && apt-get -qq "${private[@]}" update </dev/null &&
         unpack_into "$cache/qemu11" "${private[@]}" -t trixie-backports --no-install-recommends -y --download-only \
           install qemu-system-x86 &&
         start_by_loader "$root" qemu-system-x86_64 >"$root/qemu" && chmod 755 "$root/qemu" &&
         "$root/qemu" --version >/dev/null && mv "$root/qemu" "$cache/qemu11/qemu"; }; then
    rm -rf "$cache/qemu11"
    say "QEMU 11 cannot be had: its tests will be skipped"
  fi
  [ -z "$apt_dir" ] || rm -rf "$apt_dir"
}

# A script that starts a program with the libraries that are unpacked beside it.
start_by_loader() {
  printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' "$1/lib64/ld-linux-x86-64.so.2" "$1/lib/x86_64-linux-gnu" \
    "$1/bin/$2"
}

mkdir -p "$cache"
complete=1
install_packages || complete=
[ -z "$wants_guest" ] || get_kernel || complete=
[ -z "$wants_qemus" ] || get_qemu10 || complete=
[ -z "$wants_qemus" ] || get_qemu11 || complete=
[ -n "$complete" ]
