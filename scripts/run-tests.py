#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every test that this machine can run, and adds up.

Unit tests come from meson's own list; each case of a criterion executable counts as a test. System
tests come from pytest, some of them two at a time. Last come the names of what failed and
of what was skipped, with the reasons, and a line `N passed, N failed, N skipped`. Exits 1 if anything failed, or if nothing ran.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXIT_SKIPPED = 77  # meson's and automake's convention
SYSTEM_TEST_S = 400  # one of them; then pytest says where it stood, and goes on with the next
SYSTEM_TESTS_S = 3000  # all: for what even that cannot end
# Files of system tests that bear others beside them, also on half of a CPU; each row in one pytest, the longest first. Those of
# guests whose sluiced has a DPDK port are in one row: that takes hugepages where there are some, and test_matrix gives some back.
BESIDE = [["test_matrix", "test_crash", "test_migration", "test_migration_loop"], ["test_guests"], ["test_bench_hostile"],
          ["test_bench_dies"], ["test_bench_blk"], ["test_bench"], ["test_bench_counters"], ["test_hot_disk"], ["test_control_queue"],
          ["test_bench_scale"], ["test_nbd", "test_nbd_silent", "test_nbd_tls"], ["test_hot_port"], ["test_bench_signals"],
          ["test_capture"]]
RESULT = re.compile(r"tests/system/test_\w+\.py::.* (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


class Results:
    def __init__(self):
        self.passed = []
        self.failed = []  # (name, why)
        self.skipped = []

    def __len__(self):
        return len(self.passed) + len(self.failed) + len(self.skipped)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def print(self):
        for title, rows in (("failed", self.failed), ("skipped", self.skipped)):
            if rows:
                print(f"\n{title}:")
            for name, why in rows:
                print(f"  {name}: {why}")
        print(f"\n{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped")


def is_criterion(executable):
    with open(executable, "rb") as f:
        head = f.read()
    return head.startswith(b"\x7fELF") and b"libcriterion.so" in head


def one_line(text, otherwise):
    return " ".join(str(text).split())[:300] or otherwise


def add_criterion(results, name, report, exit_code, stderr):
    try:
        suites = json.loads(report.read_text(errors="replace"))["test_suites"]
    except (OSError, ValueError, KeyError):
        results.failed.append((name, one_line(stderr[-300:], f"no report, exit code {exit_code}")))
        return
    failed_before = len(results.failed)
    for suite in suites:
        for test in suite["tests"]:
            case = f"{name} / {suite['name']} / {test['name']}"
            why = one_line("; ".join(test.get("messages", [])), "no message")
            if test["status"] == "PASSED":
                results.passed.append(case)
            elif test["status"] == "SKIPPED":
                results.skipped.append((case, why))
            else:
                results.failed.append((case, why))
    if exit_code != 0 and len(results.failed) == failed_before:
        results.failed.append((name, f"exit code {exit_code}, though no case failed"))


def run_limited(command, test):
    """The finished process, or None after its time is up; then it and its children are gone."""
    with subprocess.Popen(command, cwd=test["workdir"], env={**os.environ, **test["env"]},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, errors="replace", start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=test["timeout"] or 120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run_unit_test(test, folder):
    """One executable of meson's list, by its exit code or, for criterion, case by case."""
    results = Results()
    name = test["name"]
    command = list(test["cmd"])
    criterion = is_criterion(command[0])
    report = folder / f"{name.replace('/', '-')}.json"
    if criterion:
        command.append(f"--json={report}")
    start = time.monotonic()
    done = run_limited(command, test)
    if done is None:
        results.failed.append((name, f"did not end within {test['timeout']} s"))
        print(f"  {name}: TIMEOUT", flush=True)
        return results
    if criterion:
        add_criterion(results, name, report, done.returncode, done.stderr)
    elif done.returncode == EXIT_SKIPPED:
        results.skipped.append((name, one_line(done.stdout + done.stderr, "no reason given")))
    elif done.returncode == 0:
        results.passed.append(name)
    else:
        results.failed.append((name, one_line((done.stdout + done.stderr)[-300:], f"exit code {done.returncode}")))
    verdict = "FAILED" if results.failed else "ok"
    print(f"  {name}: {verdict} ({time.monotonic() - start:.1f} s)\n"
          + (done.stdout + done.stderr if results.failed else ""), end="", flush=True)
    return results


def run_unit_tests(results, build):
    """As many at a time as there are CPUs, as meson would."""
    listed = subprocess.run(["meson", "introspect", "--tests", str(build)], check=True,
                            stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory(prefix="sluice-tests-") as folder, \
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for of_one in pool.map(lambda test: run_unit_test(test, Path(folder)), json.loads(listed.stdout)):
            results.add(of_one)


def run_pytest(build, name, report, arguments, deadline):
    """Its exit code, or a sentence. Each test's result is told as it comes, all else in one piece at the end."""
    command = ["/usr/bin/python3", "-m", "pytest", "-p", "no:cacheprovider", "-v", "--tb=short", "--color=no",
               f"--timeout={SYSTEM_TEST_S}", f"--junitxml={report}", *arguments]
    env = {**os.environ, "SLUICE_BUILD": str(build), "PYTHONUNBUFFERED": "1",
           "PYTHONDONTWRITEBYTECODE": "1"}
    start, more = time.monotonic(), []
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        killer = threading.Timer(max(1, deadline - start), process.kill)
        killer.start()
        for line in process.stdout:
            if RESULT.match(line):
                print(line, end="", flush=True)
            else:
                more.append(line)
        code = process.wait()
        killer.cancel()
    if time.monotonic() > deadline:
        code = f"{code}: all system tests together took {SYSTEM_TESTS_S} s"
    print("".join(more) + f"{name}: {time.monotonic() - start:.0f} s\n", end="", flush=True)
    return code


def add_pytest(results, name, report, code):
    if not report.exists():
        results.failed.append((name, f"pytest ended without a report, exit code {code}"))
        return
    failed_before = len(results.failed)
    for case in xml.parse(report).getroot().iter("testcase"):
        title = f"{case.get('classname', '').rpartition('.')[2]} / {case.get('name')}"
        problem = next((case.find(tag) for tag in ("failure", "error") if case.find(tag) is not None), None)
        skip = case.find("skipped")
        if problem is not None:
            results.failed.append((title, one_line(problem.get("message"), "no message")))
        elif skip is not None:
            results.skipped.append((title, one_line(skip.get("message"), "no reason given")))
        else:
            results.passed.append(title)
    if code not in (0, 1, 5) or (code == 1 and len(results.failed) == failed_before):
        results.failed.append((name, f"pytest ended with exit code {code}"))


def run_system_tests(results, build, arguments):
    """On two CPUs those that bear it, two at a time; then the others, and what in the first is marked as alone."""
    deadline = time.monotonic() + SYSTEM_TESTS_S
    beside = [f for row in BESIDE for f in row]
    others = sorted(f.stem for f in (ROOT / "tests/system").glob("test_*.py") if f.stem not in beside)
    with tempfile.TemporaryDirectory(prefix="sluice-tests-") as folder, \
            ThreadPoolExecutor(min(2, len(os.sched_getaffinity(0)))) as pool:

        def run_files(files, mark=""):
            name = f"{files[0]}{' and others' if len(files) > 1 else ''}{' alone' if mark == 'alone' else ''}"
            report, paths = Path(folder, f"{name}.xml"), [f"tests/system/{f}.py" for f in files]
            return name, report, run_pytest(build, name, report, ["-m", mark, *paths, *arguments], deadline)

        for done in pool.map(lambda files: run_files(files, "not alone"), BESIDE):
            add_pytest(results, *done)
        add_pytest(results, *run_files(beside, "alone"))
        add_pytest(results, *run_files(others))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.environ.get("SLUICE_BUILD", ROOT / "build"), type=Path,
                        help="meson's build folder (default: build)")
    parser.add_argument("--only", choices=["unit", "system"], help="half of the tests")
    parser.add_argument("pytest_arguments", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    build = options.build.resolve()

    results = Results()
    start = time.monotonic()
    if options.only != "system":
        print("unit tests:", flush=True)
        run_unit_tests(results, build)
    if options.only != "unit":
        print("system tests:", flush=True)
        run_system_tests(results, build, options.pytest_arguments)
    print(f"\n{len(results)} tests in {time.monotonic() - start:.0f} s")
    if not len(results):
        results.failed.append(("all tests", "none was found"))
    results.print()
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
