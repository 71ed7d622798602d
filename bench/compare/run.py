# SPDX-License-Identifier: Apache-2.0
"""Starts back-ends, measures them in turn (A B A B ...) and keeps what was found."""
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import virtio_user
from recipe import RecipeError, fill

START_TIMEOUT_S = 20
FIO_TIMEOUT_S = 120  # beside the time that it measures
SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"])


NOT_INSTALLED = "not installed: "


class Failure(Exception):
    """A back-end could not be measured: a sentence."""


class Stopped(BaseException):
    """By a signal. What was measured until then counts."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


class StartFailure(Failure):
    """It did not start, and will not for another workload either."""


def plain(text):
    """On one line, and nothing in it that a terminal would obey."""
    return "".join(x if x.isprintable() else "?" for x in " ".join(text.split()))


def last_lines(log, most=3):
    """However much it said."""
    with open(log, "rb") as f:
        f.seek(max(0, os.fstat(f.fileno()).st_size - (1 << 16)))
        text = f.read().decode(encoding="utf-8", errors="replace")
    lines = [plain(x) for x in text.split("\n") if x.strip()]
    return " / ".join(x if len(x) <= 300 else x[:300] + "..." for x in lines[-most:]) or "it said nothing"


class Running:
    """One back-end, from when it is ready until the block ends; it and its children end with it."""

    def __init__(self, backend, folder, values, pin, search):
        self.backend, self.folder, self.log = backend, folder, f"{folder}/log"
        self.environment = {**os.environ, "PATH": search,
                            **{k: fill(v, values) for k, v in backend.environment.items()}}
        self.pinned = ["taskset", "-c", str(pin)] if pin is not None else []
        self.values, self.process = values, None

    def __enter__(self):
        for name, text in self.backend.files.items():
            Path(self.folder, name).write_text(fill(text, self.values), encoding="utf-8")
        command = [*self.pinned, *(fill(w, self.values) for w in self.backend.command)]
        with open(self.log, "wb") as log:
            try:
                # Some end with their standard input, so it stays open; a session, so that children can be ended too.
                self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.environment, cwd=self.folder,
                    start_new_session=True)
            except OSError as e:
                raise StartFailure(f"{command[0]}: {e.strerror}") from e
        try:
            self.wait_ready()
            for command in self.backend.setup:
                self.set_up([fill(w, self.values) for w in command])
        except BaseException:
            self.__exit__()
            raise
        return self

    def is_ready(self):
        if self.backend.output:
            return re.search(self.backend.output, Path(self.log).read_text(encoding="utf-8", errors="replace"), re.M)
        return self.backend.connects or all(os.path.exists(self.values[f"socket.{s}"]) for s in self.backend.sockets)

    def wait_ready(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            self.check_alive("before it was ready")
            if time.monotonic() > deadline:
                raise StartFailure(f"was not ready within {START_TIMEOUT_S} s: {last_lines(self.log)}")
            time.sleep(0.02)
        time.sleep(self.backend.settle)
        self.check_alive("as soon as it was ready")

    def set_up(self, command):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                                  env=self.environment, cwd=self.folder, timeout=START_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise StartFailure(f"setup: {' '.join(command)}: {e}") from e
        if done.returncode:
            raise StartFailure(f"setup: {' '.join(command)}: exit code {done.returncode}: {plain(done.stdout)[-900:]}")

    def ended(self):
        """How, or None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def cpu_seconds(self):
        """Of the process, by its CPU clock (clock_getcpuclockid(3))."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def check_alive(self, when):
        if self.ended():
            raise StartFailure(f"ended {when} ({self.ended()}): {last_lines(self.log)}")

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait()


def option_of(arguments, name, default):
    return arguments[arguments.index(name) + 1] if name in arguments[:-1] else default


def fio_figures(text):
    job = json.loads(text[text.index("{"):])["jobs"][0]
    n = job["read"]["total_ios"] + job["write"]["total_ios"]
    rate = job["read"]["iops"] + job["write"]["iops"]
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    return {"rate": rate, "cpu": cpu / n * 1e6 if n else 0.0}


def steal_seconds():
    """What the hypervisor took from all CPUs so far."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def busy(cpu):
    """A loop on that CPU, or where it likes. Beside an idle CPU a virtual machine's disk answers sooner: fio got 1.7 times as much."""
    # It ends with its standard input, and so with us, however we end.
    loop = "while not select.select([0], [], [], 0)[0]: pass"
    pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
    with subprocess.Popen([*pinned, sys.executable, "-c", f"import select\n{loop}"], stdin=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.kill()


def warnings_of(text):
    """What sluice-bench did not like and went on with. Sockets' paths are of one run alone."""
    return [re.sub(r"^sluice-bench: (?:\S+\.sock: )?", "", x).strip() for x in text.splitlines() if x.startswith("sluice-bench: ")]


def user_of(number, path):
    """Who uses the block device @number (st_rdev), in words."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        if line.split()[2] == f"{os.major(number)}:{os.minor(number)}":
            return f"mounted on {line.split()[4]}"
    for line in Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]:
        with contextlib.suppress(OSError):
            if os.stat(line.split()[0]).st_rdev == number:
                return "used as swap"
    return f"mounted, used as swap or held by a program (lsblk {path} and fuser -v {path} may tell)"


def check_free(path):
    """That nobody has the block device @path: what opens it without O_EXCL would overwrite what is mounted, or swap."""
    found = os.stat(path)
    if not stat.S_ISBLK(found.st_mode):
        return
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise
        raise RecipeError(f"{path}: in use: {user_of(found.st_rdev, path)}; it would be overwritten: say an --image that "
                          "nobody uses") from e


class Bench:
    """What is the same for all runs of one recipe."""

    def __init__(self, recipe, sluice_bench, folder=None, libexec=None):
        self.recipe, self.sluice_bench, self.folder = recipe, str(sluice_bench), folder
        # sluiced of the same build is taken before an installed one. The floors are installed, but not for users.
        build = Path(sluice_bench).resolve().parent
        places = [build.parent / "daemon", build, build / "ring", build.parent / "sbin", build.parent / "libexec/sluice", *([libexec] if libexec else [])]
        self.search = os.pathsep.join([*map(str, places), SEARCH])
        self.image, self.made = recipe.image, None
        self.stopped = None  # by which signal

    def __enter__(self):
        if isinstance(self.image, int):
            self.made, self.image = self.make_image(self.image)
        elif self.image:
            check_free(self.image)
        return self

    def __exit__(self, *_):
        if self.made:
            self.made.cleanup()

    def make_image(self, size):
        """Written to its end: a hole costs less to read than a block. /var/tmp is on a disk where /tmp may not be."""
        made = tempfile.TemporaryDirectory(prefix="sluice-bench-", dir=self.folder or "/var/tmp")
        os.chmod(made.name, 0o777)
        path, left = Path(made.name, "image"), size
        try:
            with open(path, "wb") as f:
                while left:
                    left -= f.write(os.urandom(min(left, 1 << 20)))
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            made.cleanup()
            why = f"{e.strerror}, for an image of {size >> 20} MiB; say another --folder, or a smaller --image"
            raise OSError(e.errno, why, str(path.parent.parent)) from e
        os.chmod(path, 0o666)
        return made, str(path)

    def missing(self, backend):
        return [p for p in backend.needs if not shutil.which(p, path=self.search)]

    def check_arguments(self):
        """That sluice-bench takes what it will be told, by telling it with sockets that cannot be there. Raises RecipeError."""
        told = {}
        for b in self.recipe.backends.values():
            for w, (kind, *rest) in self.recipe.workloads.items():
                if kind == "virtio-user" and b.takes(w) and len(b.sockets) != 2:
                    raise RecipeError(f"{self.recipe.file}: workloads.{w}, with {b.name}: virtio-user wants a back-end of two sockets")
                if b.kind == "vhost-user" and kind != "virtio-user" and b.takes(w):
                    told.setdefault((kind, *(f"/dev/null/{s}" for s in b.sockets), *rest, *b.arguments), (b.name, w))
        for words, (b, w) in told.items():
            done = subprocess.run([self.sluice_bench, *words, "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                  check=False, timeout=60)
            if done.returncode == 2:
                why = " ".join(done.stderr.split()).removeprefix("sluice-bench: ")
                raise RecipeError(f"{self.recipe.file}: workloads.{w}, with {b}: {why}")

    def measure(self, backend, arguments):
        """One run against a back-end that is started for it: {"rate", "cpu", "steal_s"}, and "said", lines. Raises Failure."""
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
            os.chmod(folder, 0o777)  # for back-ends that give up being root
            values = {"folder": folder, "cpu": self.recipe.pins["back-end"], "image": self.image,
                      **{f"socket.{s}": f"{folder}/{s}.sock" for s in backend.sockets}}
            if backend.kind == "fio":
                return self.measure_alone(backend, arguments, values)
            with Running(backend, folder, values, self.recipe.pins["back-end"], self.search) as running:
                drive = self.drive_virtio_user if arguments[0] == "virtio-user" else self.drive
                return drive(running, arguments, [values[f"socket.{s}"] for s in backend.sockets])

    def drive(self, running, arguments, sockets):
        kind, *rest = arguments
        pin = self.recipe.pins["driver"]
        command = [self.sluice_bench, kind, *sockets, *rest, *running.backend.arguments, "--time",
                   str(self.recipe.time), *(["--cpu", str(pin)] if pin is not None else []),
                   *(["--listen", "--timeout", "20000"] if running.backend.connects else []), "--json"]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                                  timeout=self.recipe.time + 60)
        except subprocess.TimeoutExpired as e:
            raise Failure(f"sluice-bench did not end within {self.recipe.time + 60} s") from e
        if done.returncode:
            time.sleep(0.1)  # for the kernel, which closes sockets before it tells of the end
            why = re.sub(r"sluice-bench: (?:\S+\.sock: )?", "", " ".join(done.stderr.split())) or (
                f"sluice-bench: exit code {done.returncode}")
            raise Failure(why + (f" ({running.ended()}: {last_lines(running.log)})" if running.ended() else ""))
        found = json.loads(done.stdout)
        return {"rate": self.figure_of(found), "cpu": found["backend_cpu_s_per_million"], "steal_s": found.get("steal_s"),
                "said": warnings_of(done.stderr)}

    def figure_of(self, found):
        if not self.recipe.figure:
            return found["pps" if "pps" in found else "iops"]
        for key in self.recipe.figure:
            if not isinstance(found, dict) or key not in found:
                raise Failure(f"sluice-bench told no {'.'.join(self.recipe.figure)}")
            found = found[key]
        return found

    def drive_virtio_user(self, running, arguments, sockets):
        """By a driver that is not ours, between two cards."""
        missing = virtio_user.missing(self.search)
        if missing or len(sockets) != 2 or self.recipe.pins["driver"] is None:
            raise Failure(NOT_INSTALLED + ", ".join(missing) if missing else
                          "virtio-user wants a back-end of two sockets, and a CPU: say pin: driver: at the top")
        steal = []

        def measured():
            steal.append(steal_seconds())
            return running.cpu_seconds()

        options = {n.removeprefix("--"): int(v) if v.isdigit() else v for n, v in zip(arguments[1::2], arguments[2::2])}
        try:
            rate, cpu = virtio_user.drive(sockets, running.folder, self.recipe.pins["driver"], self.recipe.time, **options,
                                          listen=running.backend.connects, measured=measured, path=self.search)
        except virtio_user.VirtioUserFailure as e:
            raise Failure(f"{e} ({running.ended()}: {last_lines(running.log)})" if running.ended() else str(e)) from e
        if not rate:
            raise Failure("no frame came through")
        return {"rate": rate, "cpu": cpu / (rate * self.recipe.time) * 1e6, "steal_s": steal[-1] - steal[0]}

    def measure_alone(self, backend, arguments, values):
        if arguments[0] != "blk":
            raise Failure("fio measures disks alone")
        values.update(rw=option_of(arguments, "--rw", "randread"), bs=option_of(arguments, "--bs", "4K"),
                      depth=option_of(arguments, "--depth", "32"), time=self.recipe.time)
        pin = self.recipe.pins["back-end"]
        command = [*(["taskset", "-c", str(pin)] if pin is not None else []),
                   *(fill(w, values) for w in backend.command)]
        steal = steal_seconds()
        limit = self.recipe.time + FIO_TIMEOUT_S
        with busy(self.recipe.pins["driver"]) if backend.busy else contextlib.nullcontext():
            try:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                                      check=False, timeout=limit, env={**os.environ, "PATH": self.search})
            except OSError as e:
                raise StartFailure(f"{command[0]}: {e.strerror}") from e
            except subprocess.TimeoutExpired as e:
                raise Failure(f"{backend.command[0]} did not end within {limit} s") from e
        if done.returncode:
            raise Failure(f"exit code {done.returncode}: {plain(done.stderr or done.stdout)[:300]}")
        try:
            return {**fio_figures(done.stdout), "steal_s": steal_seconds() - steal}
        except (ValueError, LookupError) as e:
            raise Failure(f"its output is not fio's JSON ({e}); say --output-format=json") from e


class Figures:
    """Of one workload: by back-end, and there by round, what measure() gave; and why it is missing."""

    def __init__(self, less=False):
        self.found, self.failed, self.less = {}, {}, less
        self.said = {}  # by back-end: lines of sluice-bench's that were no failure, each once

    def add(self, name, number, found):
        for line in found.pop("said", ()):
            self.said.setdefault(name, {})[line] = True
        self.found.setdefault(name, {})[number] = found

    def names(self):
        return list(self.found)

    def rate(self, name):
        return statistics.median(f["rate"] for f in self.found[name].values())

    def cpu(self, name):
        return statistics.median(f["cpu"] for f in self.found[name].values())

    def spread(self, name):
        """Between the slowest and the fastest round, of the median."""
        rates = [f["rate"] for f in self.found[name].values()]
        return (max(rates) - min(rates)) / statistics.median(rates) if any(rates) else 0.0

    def ratio(self, name, to):
        """The median of the rounds' own, for a machine that changes its speed does so between rounds. None: no round
        has both."""
        a, b = self.found.get(name, {}), self.found.get(to, {})
        if self.less:
            a, b = b, a
        own = [a[n]["rate"] / b[n]["rate"] for n in a if n in b and b[n]["rate"]]
        return statistics.median(own) if own else None


def in_turn(bench, tell=lambda text: None):
    """{workload: Figures}. In each round each back-end has its turn; one that fails has no further one in this workload,
    and the others go on. Where a signal ends it (Stopped), those of the runs that were whole."""
    results = {}
    try:
        take_turns(bench, results, tell)
    except Stopped as e:
        bench.stopped = e.number
    return {w: f for w, f in results.items() if f.found or not bench.stopped}


def take_turns(bench, results, tell):
    recipe = bench.recipe
    present, absent = {}, {}
    for name, backend in recipe.backends.items():
        missing = bench.missing(backend)
        if missing:
            absent[name] = NOT_INSTALLED + ", ".join(missing)
            tell(f"{name}: skipped, {absent[name]}")
        else:
            present[name] = backend
    for workload, arguments in recipe.workloads.items():
        figures = results[workload] = Figures(bool(recipe.figure))
        figures.failed.update(absent)
        for number in range(recipe.rounds):
            for name, backend in present.items():
                if name in figures.failed or not backend.takes(workload) or 0 < backend.rounds <= number:
                    continue
                try:
                    found = bench.measure(backend, arguments)
                    figures.add(name, number, found)
                    tell(f"{workload}: round {number + 1} of {recipe.rounds}: {name}: {found['rate']:.{1 if recipe.figure else 0}f}")
                except Failure as e:
                    figures.failed[name] = str(e)
                    if isinstance(e, StartFailure):
                        absent[name] = str(e)
                    tell(f"{workload}: {name}: {e}")
