# SPDX-License-Identifier: Apache-2.0
"""scripts/setup.sh on a machine that has never heard of a package, as a new one is."""
import os
import subprocess

from lab import ROOT

# Says of two packages that they are installed, and fails for the others, as dpkg-query does for names that
# dpkg keeps no record of.
DPKG_QUERY = """#!/bin/sh
printf 'ii  build-essential\\nii  python3\\n'
echo 'dpkg-query: no packages found matching meson' >&2
exit 1
"""


def test_packages_that_dpkg_has_never_heard_of_are_missing(folder):
    fake = folder / "dpkg-query"
    fake.write_text(DPKG_QUERY)
    fake.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/setup.sh", "--for", "build", "--check"], stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLUICE_CACHE": str(folder / "cache")})
    assert done.returncode == 1
    missing = done.stdout.partition("missing packages: ")[2].split()
    assert "meson" in missing and "libdpdk-dev" in missing
    assert "build-essential" not in missing and "python3" not in missing
