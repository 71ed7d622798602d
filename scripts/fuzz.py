#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets of tests/fuzz and prints what came of it.

Each target runs for a time, from its seeds and from the corpus that earlier runs left in the build
folder, under ASan and UBSan. What makes one crash, leak, hang or break an invariant is kept in the
build folder, and named; then the exit code is 1. With --threads the races run over the seeds once more,
--rounds times, under TSan. With --coverage the corpora are run once more on a
build that counts lines, and what they reach of each folder is printed. With --keep the corpora are
minimised into tests/fuzz/seeds, from which the unit tests run them with any compiler.

A target race_x is x with a second thread that writes to the guest's memory, and starts from what x
starts from. Without clang there is nothing to do: says so and exits 0.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "tests/fuzz/seeds"
MAX_LEN = {"config": 4096, "rpc": 4096, "session": 2048}
TEXT = {"config", "rpc"}
TARGETS = sorted(re.findall(r"^  '(\w+)':", (ROOT / "tests/fuzz/meson.build").read_text(), re.M))
# What a log says of why a run ended.
REASON = re.compile(r".*(?:does not hold|ERROR: |runtime error|SUMMARY: ).*")


def run(*args, **kwargs):
    return subprocess.run([str(a) for a in args], **kwargs)


def setup(build, options, env, targets):
    if not (build / "build.ninja").exists():
        rc = run("meson", "setup", build, "-Dwerror=false", "-Db_lundef=false", *options, cwd=ROOT,
                 env={**os.environ, **env}, stdout=subprocess.DEVNULL).returncode
        if rc:
            sys.exit(f"fuzz: meson could not set up {build}")
    done = run("ninja", "-C", build, *targets, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nfuzz: {build} does not build")


def plain(target):
    """The target whose inputs a race takes."""
    return target.removeprefix("race_")


def unpack_seeds(target, corpus):
    """Seeds are files, or lines of hexadecimal."""
    corpus.mkdir(parents=True, exist_ok=True)
    for path in sorted((SEEDS / plain(target)).glob("*")):
        if path.suffix != ".hex":
            shutil.copy(path, corpus / path.name)
            continue
        lines = [line for line in path.read_text().split("\n") if line and line[0] != "#"]
        for n, line in enumerate(lines):
            (corpus / f"{path.stem}-{n}").write_bytes(bytes.fromhex(line))


def number(pattern, text, otherwise=0):
    found = re.findall(pattern, text)
    return int(found[-1]) if found else otherwise


def fuzz(build, target, seconds):
    corpus, found = build / "corpus" / target, build / "found"
    found.mkdir(exist_ok=True)
    unpack_seeds(target, corpus)
    before = set(found.glob(f"{target}-*"))
    # What undefined behaviour there is ends a run, as all else does.
    out = run(build / "tests/fuzz" / f"fuzz_{target}", corpus, f"-max_total_time={seconds}",
              f"-max_len={MAX_LEN.get(target, 1024)}", "-len_control=0", "-entropic=0", "-timeout=60",
              "-rss_limit_mb=2048", "-print_funcs=0", "-print_final_stats=1", f"-artifact_prefix={found}/{target}-",
              f"-only_ascii={int(target in TEXT)}",
              env={**os.environ, "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"},
              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace")
    (build / f"{target}.log").write_text(out.stderr)
    new = sorted(set(found.glob(f"{target}-*")) - before)
    return {
        "executions": number(r"number_of_executed_units: (\d+)", out.stderr),
        "a second": number(r"average_exec_per_sec: +(\d+)", out.stderr),
        "edges": number(r"cov: (\d+)", out.stderr),
        "corpus": len(list(corpus.iterdir())),
        "failed": out.returncode != 0,
        "findings": new,
        "reasons": REASON.findall(out.stderr)[:4] if out.returncode else [],
    }


def print_table(rows):
    columns = ["executions", "a second", "edges", "corpus"]
    print(f"{'target':14}" + "".join(f"{c:>12}" for c in columns) + "  findings")
    for target, row in rows.items():
        print(f"{target:14}" + "".join(f"{row[c]:>12}" for c in columns) +
              f"  {len(row['findings']) or ('failed' if row['failed'] else 'none')}")


def print_findings(build, rows):
    """@return the exit code."""
    failed = [target for target, row in rows.items() if row["failed"]]
    for target in failed:
        print(f"\n{target}: see {build / target}.log")
        for line in rows[target]["reasons"]:
            print(f"  {line.strip()}")
        for path in rows[target]["findings"]:
            print(f"  input: {path}\n  {path.read_bytes().hex()}")
    executions = sum(row["executions"] for row in rows.values())
    print(f"fuzz: {len(rows)} targets, {executions:,} executions: " +
          (f"FOUND SOMETHING in {', '.join(failed)}" if failed else "nothing found"))
    return 1 if failed else 0


def print_reached(name, functions, functions_missed, lines, lines_missed):
    print(f"{name:34}{functions:>10}{functions - functions_missed:>9}{lines:>7}"
          f"{100 * (lines - lines_missed) / lines:>8.1f}%")


def coverage(build, targets):
    cov = build.with_name(build.name + "-coverage")
    flags = "-fprofile-instr-generate -fcoverage-mapping"
    setup(cov, [f"-Dc_args={flags}", f"-Dc_link_args={flags}"], {"CC": "clang"}, ["fuzzers"])
    programs = [cov / "tests/fuzz" / f"fuzz_{t}" for t in targets]
    for target, program in zip(targets, programs):
        run(program, build / "corpus" / target, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "LLVM_PROFILE_FILE": str(cov / f"{target}.profraw")})
    run("llvm-profdata", "merge", "-sparse", *[cov / f"{t}.profraw" for t in targets],
        "-o", cov / "all.profdata", check=True)
    report = run("llvm-cov", "report", programs[0], *[f"-object={p}" for p in programs[1:]],
                 f"-instr-profile={cov / 'all.profdata'}", stdout=subprocess.PIPE, text=True,
                 check=True).stdout
    (cov / "report.txt").write_text(report)
    files = {}
    for line in report.split("\n"):
        columns = line.split()
        if len(columns) < 10 or not re.match(r".*\.[ch]$", columns[0]):
            continue
        # file, regions and missed, functions and missed, lines and missed, each with a percentage
        name = columns[0].split("../")[-1]
        if columns[7] == "0":
            continue
        files[name] = [int(columns[i]) for i in (4, 5, 7, 8)]
    print(f"\n{'of':34}{'functions':>10}{'reached':>9}{'lines':>7}{'reached':>9}")
    folders = {}
    for name, counts in sorted(files.items()):
        folder = name.split("/")[0]
        if folder in ("tests", "poll", "base"):
            continue
        folders[folder] = [a + b for a, b in zip(folders.get(folder, [0] * 4), counts)]
        print_reached("  " + name, *counts)
    for folder, counts in folders.items():
        print_reached(folder + "/", *counts)


def keep(build, target):
    """The smallest inputs that together reach what the corpus reaches, as lines of hexadecimal."""
    small = build / "small" / target
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir(parents=True)
    run(build / "tests/fuzz" / f"fuzz_{target}", "-merge=1", "-use_counters=0", small,
        build / "corpus" / target, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    inputs = sorted((p.read_bytes() for p in small.iterdir()), key=lambda b: (len(b), b))
    (SEEDS / target).mkdir(parents=True, exist_ok=True)
    (SEEDS / target / "corpus.hex").write_text(
        "# Inputs that a fuzzer found worth keeping, one a line; made by scripts/fuzz.py --keep.\n" +
        "".join(b.hex() + "\n" for b in inputs if b))


def threads(build, targets, rounds):
    """The races under TSan, which finds what is read other than by an atomic access. @return true: nothing."""
    tsan, races = build.with_name(build.name + "-thread"), [t for t in targets if t != plain(t)]
    # It does not know fences, and gcc says so at each; no memory is handed over by one.
    setup(tsan, ["-Db_sanitize=thread", "-Dc_args=-Wno-tsan"], {}, [f"tests/fuzz/fuzz_{t}" for t in races])
    good = True
    for target in races:
        out = run(tsan / "tests/fuzz" / f"fuzz_{target}", *[SEEDS / plain(target)] * rounds, stdout=subprocess.PIPE,
                  stderr=subprocess.STDOUT, text=True, errors="replace",
                  env={**os.environ, "TSAN_OPTIONS": f"halt_on_error=1:suppressions={ROOT}/tests/fuzz/tsan.supp"})
        (tsan / f"{target}.log").write_text(out.stdout)
        said = out.stdout.strip().rpartition("\n")[2]
        print(f"{target:14}under TSan: {said if out.returncode == 0 else f'FAILED, see {tsan / target}.log'}")
        good = good and out.returncode == 0
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="targets at the same time (1)")
    parser.add_argument("--time", type=int, default=60, metavar="S", help="seconds for each target (60)")
    parser.add_argument("--build", type=Path, default=ROOT / "build-fuzz", help="build folder (build-fuzz)")
    parser.add_argument("--threads", action="store_true", help="run the races under TSan too")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="over the seeds, under TSan (5)")
    parser.add_argument("--coverage", action="store_true", help="print what lines the corpora reach")
    parser.add_argument("--keep", action="store_true", help="minimise the corpora into tests/fuzz/seeds")
    parser.add_argument("targets", nargs="*", help="ring, blk, net …; all if none is named")
    args = parser.parse_args()
    if not shutil.which("clang"):
        print("fuzz: skipped: clang is not installed (scripts/setup.sh --for lint installs it)")
        return 0
    targets = args.targets or TARGETS
    for target in targets:
        if target not in TARGETS:
            sys.exit(f"fuzz: there is no target {target}; there are {', '.join(TARGETS)}")
    build = args.build.resolve()
    setup(build, ["-Dfuzz=true", "-Db_sanitize=address,undefined"], {"CC": "clang"},
          [f"tests/fuzz/fuzz_{t}" for t in targets])
    rows = {}
    if args.time:
        with ThreadPoolExecutor(args.jobs) as pool:
            rows = dict(zip(targets, pool.map(lambda target: fuzz(build, target, args.time), targets)))
        print_table(rows)
    if args.keep:
        for target in targets:
            if target == plain(target):
                keep(build, target)
    if args.coverage:
        coverage(build, targets)
    good = not args.threads or threads(build, targets, args.rounds)
    return (print_findings(build, rows) if rows else 0) or (0 if good else 1)


sys.exit(main())
