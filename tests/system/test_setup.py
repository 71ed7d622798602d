# SPDX-License-Identifier: Apache-2.0
"""scripts/setup.sh on a machine that has never heard of a package, as a new one is; and Open vSwitch's service, which is
kept off."""
import os
import subprocess

import pytest

from lab import ROOT

# Says of two packages that they are installed, and fails for the others, as dpkg-query does for names that
# dpkg keeps no record of.
DPKG_QUERY = """#!/bin/sh
printf 'ii  build-essential\\nii  python3\\n'
echo 'dpkg-query: no packages found matching meson' >&2
exit 1
"""

# Asks as invoke-rc.d and deb-systemd-invoke do while packages are installed, and notes what policy-rc.d answers.
APT_GET = """#!/bin/sh
case $* in
  *update*) exit 0 ;;
esac
ask() { "$SLUICE_POLICY_RC_D" "$@"; echo "$* $?" >>"$NOTES"; }
echo "$*" >>"$NOTES"
if [ -x "$SLUICE_POLICY_RC_D" ]; then
  ask openvswitch-switch start; ask openvswitch-switch.service start; ask ovs-record-hostname.service start
  ask nginx start; ask nginx '(start)'
fi
exit ${APT_FAILS:-0}
"""

NOTE = '#!/bin/sh\necho "${0##*/} $*" >>"$NOTES"\n'
ROOT_USER = "#!/bin/sh\necho ${USER_ID:-0}\n"


def set_up(folder, *arguments, installed=(), **environment):
    """What scripts/setup.sh says, its exit code, and what was done to the machine."""
    texts = {"dpkg-query": DPKG_QUERY.replace("ii  python3", "\\n".join(f"ii  {p}" for p in ("python3", *installed))),
             "apt-get": APT_GET, "update-rc.d": NOTE, "id": ROOT_USER}
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/setup.sh", *arguments], stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLUICE_CACHE": str(folder / "cache"),
             "SLUICE_POLICY_RC_D": str(folder / "policy-rc.d"), "NOTES": str(folder / "notes"), **environment})
    notes = folder / "notes"
    return done.stdout, done.returncode, notes.read_text().splitlines() if notes.exists() else []


def test_packages_that_dpkg_has_never_heard_of_are_missing(folder):
    said, code, notes = set_up(folder, "--for", "build", "--check")
    missing = said.partition("missing packages: ")[2].split()
    assert code == 1 and not notes
    assert "meson" in missing and "libdpdk-dev" in missing
    assert "build-essential" not in missing and "python3" not in missing


@pytest.mark.parametrize("fails", [0, 100], ids=["installed", "failed"])
def test_open_vswitch_is_neither_started_by_its_installation_nor_at_boot(folder, fails):
    _, code, notes = set_up(folder, "--for", "bench", APT_FAILS=str(fails))
    assert code == (1 if fails else 0) and "openvswitch-switch-dpdk" in notes[0]
    others = 0 if os.path.exists("/sbin/init") else 101
    assert notes[1:6] == ["openvswitch-switch start 101", "openvswitch-switch.service start 101",
                          "ovs-record-hostname.service start 101", f"nginx start {others}", "nginx (start) 101"]
    assert notes[6:] == ([] if fails else ["update-rc.d openvswitch-switch disable"])
    assert not (folder / "policy-rc.d").exists()


@pytest.mark.parametrize("arguments, installed", [(("--for", "build"), ()), (("--for", "bench"), ("openvswitch-switch",))],
                         ids=["not wanted", "its user's"])
def test_an_open_vswitch_that_is_not_ours_to_keep_off_is_let_be(folder, arguments, installed):
    _, code, notes = set_up(folder, *arguments, installed=installed)
    assert code == 0 and len(notes) == 1


def test_a_policy_that_is_there_is_kept_and_decides(folder):
    theirs = folder / "policy-rc.d"
    theirs.write_text("#!/bin/sh\nexit 104\n")
    theirs.chmod(0o755)
    said, code, notes = set_up(folder, "--for", "bench")
    assert code == 0 and f"{theirs} decides" in said and notes[1] == "openvswitch-switch start 104"
    assert theirs.read_text() == "#!/bin/sh\nexit 104\n" and notes[-1] == "update-rc.d openvswitch-switch disable"


def test_a_policy_of_ours_that_a_killed_run_left_goes_with_the_next(folder):
    set_up(folder, "--for", "bench")
    left = (ROOT / "scripts/setup.sh").read_text(encoding="utf-8").partition('policy_mark="')[2].partition('"')[0]
    (folder / "policy-rc.d").write_text(f"#!/bin/sh\n# {left}\nexit 101\n")
    _, code, _ = set_up(folder, "--for", "bench")
    assert code == 0 and not (folder / "policy-rc.d").exists()


def test_who_is_not_root_is_told_how_its_service_stays_off(folder):
    said, code, notes = set_up(folder, "--for", "bench", USER_ID="1000")
    assert code == 1 and not notes
    assert "sudo apt-get install -y" in said and "sudo scripts/setup.sh --for bench" in said
