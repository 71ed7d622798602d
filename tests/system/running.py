# SPDX-License-Identifier: Apache-2.0
"""Processes that end with the block that they run in, whatever the block ends with."""
import contextlib
import subprocess


@contextlib.contextmanager
def running(command, **how):
    """subprocess.Popen, but for this: where the block raises, Popen's own exit waits for a process that nobody ends."""
    with subprocess.Popen([str(word) for word in command], **how) as process:
        try:
            yield process
        finally:
            process.kill()
