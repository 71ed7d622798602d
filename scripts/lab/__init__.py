# SPDX-License-Identifier: Apache-2.0
"""A small laboratory: real QEMU guests on a real sluiced. `make demo` and the system tests use it."""
import os
import pwd
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("SLUICE_BUILD", ROOT / "build")).resolve()
CACHE = Path(os.environ.get("SLUICE_CACHE") or
             Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice")


class LabError(Exception):
    """Something did not hold; the text is a sentence for the person who runs this."""


def credentials(user):
    """For subprocess: as @user (a name), with that user's group and no other; None: as ourselves."""
    if not user:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
