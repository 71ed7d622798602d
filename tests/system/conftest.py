# SPDX-License-Identifier: Apache-2.0
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "scripts"))
sys.dont_write_bytecode = True


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: scripts/run-tests.py runs no other beside it, even if others of its file bear it")


@pytest.fixture
def folder():
    """A short path (a socket's may have 107 bytes) that a daemon with another user can enter."""
    path = Path(tempfile.mkdtemp(prefix="sluice-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)
