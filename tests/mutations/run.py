#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Takes guards out of the code, one at a time, and sees that a test fails for each.

A guard is an `if` whose branch leaves: a return, break, continue or goto. Each part of its condition
that || joins is a guard of its own. guards.txt says in which files they are looked for and which test
programs should notice; mutants.txt adds changes that are no `if` (a clamp, a mask); accepted.txt lists
the guards that no test can notice, with the reason.

Works on a copy of the sources in a build folder of its own (ASan), so that the tree is left alone, and
remembers there what it has tried: a run that is stopped goes on where it was. Prints each mutant that
survived, and how many there were; exits 1 if one survived that is not accepted.
"""
import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LEAVES = re.compile(r"\b(return|break|continue|goto)\b")


def matching(text, at):
    """The index behind the parenthesis or brace that closes the one at @at."""
    depth = 0
    pairs = {"(": 1, "{": 1, ")": -1, "}": -1}
    for i in range(at, len(text)):
        depth += pairs.get(text[i], 0)
        if depth == 0:
            return i + 1
    raise ValueError("unbalanced")


def blank_comments(text):
    def spaces(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\])*\"", spaces, text, flags=re.S)


def top_level_parts(cond):
    """Where the operands of || at the top begin and end."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(cond):
        if cond[i] in "({":
            depth += 1
        elif cond[i] in ")}":
            depth -= 1
        elif depth == 0 and cond.startswith("||", i):
            parts.append((start, i))
            start = i + 2
        i += 1
    parts.append((start, len(cond)))
    return parts


def unwrapped(cond, at):
    """The inside of likely(…) or unlikely(…), if that is all there is; and where it begins."""
    m = re.match(r"\s*(un)?likely\(", cond)
    if m and matching(cond, m.end() - 1) == len(cond.rstrip()):
        inside = cond[m.end():cond.rstrip().rfind(")")]
        return inside, at + m.end(), m.group(1) is None
    return cond, at, False


def function_at(text, at):
    names = re.findall(r"^[A-Za-z][^;{}()]*?(\w+)\([^;{}]*\)\s*\{", text[:at], re.M)
    return names[-1] if names else "?"


class Mutant:
    def __init__(self, file, text, function, what, start, end, by):
        self.file, self.text, self.what, self.start, self.end, self.by = file, text, what, start, end, by
        self.name = f"{file}: {function}: {what}"


def guards_of(file):
    text = (ROOT / file).read_text()
    code = blank_comments(text)
    for m in re.finditer(r"\bif \(", code):
        end = matching(code, m.end() - 1)
        cond, at, inverted = unwrapped(code[m.end():end - 1], m.end())
        rest = code[end:]
        body = rest[:matching(rest, rest.index("{"))] if rest.lstrip().startswith("{") else rest[:rest.index(";") + 1]
        if not LEAVES.search(body):
            continue
        for a, b in top_level_parts(cond):
            start, stop = at + a, at + b
            while text[start] in " \t\n":
                start += 1
            while text[stop - 1] in " \t\n":
                stop -= 1
            what = " ".join(text[start:stop].split())
            yield Mutant(file, text, function_at(code, m.start()), what, start, stop, "1" if inverted else "0")


def extra_mutants(file):
    """Blocks of: the file's name, a line of `-` and the text to be found once, one of `+` and its place."""
    path = HERE / "mutants.txt"
    for block in path.read_text().split("\n\n") if path.exists() else []:
        lines = [line for line in block.split("\n") if line and line[0] != "#"]
        if not lines or lines[0] != file:
            continue
        old = "\n".join(line[1:] for line in lines[1:] if line[0] == "-")
        new = "\n".join(line[1:] for line in lines[1:] if line[0] == "+")
        text = (ROOT / file).read_text()
        if text.count(old) != 1:
            sys.exit(f"mutations: {text.count(old)} times in {file}:\n{old}")
        at = text.index(old)
        mutant = Mutant(file, text, function_at(blank_comments(text), at), " ".join(old.split()), at, at + len(old), new)
        mutant.name += " -> " + " ".join(new.split())
        yield mutant


def mutants_of(file):
    """Those that are called the same are numbered."""
    mutants, seen = [*guards_of(file), *extra_mutants(file)], {}
    for mutant in mutants:
        seen[mutant.name] = seen.get(mutant.name, 0) + 1
        if seen[mutant.name] > 1:
            mutant.name += f" #{seen[mutant.name]}"
    return mutants


def read_guards():
    plan = {}
    for line in (HERE / "guards.txt").read_text().split("\n"):
        if line and line[0] != "#":
            file, programs = line.split(":")
            plan[file] = programs.split()
    return plan


def read_accepted():
    """Name of a mutant, a tab, the reason."""
    lines = (HERE / "accepted.txt").read_text().split("\n")
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def limit_cpu():
    """A mutant that spins ends by itself, in whatever process."""
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))


class Bench:
    def __init__(self, build):
        self.tree, self.build = build / "tree", build / "out"
        self.results_path = build / "results.json"
        self.jobs = os.environ.get("JOBS", os.cpu_count())
        self.known, self.stale = {}, set()
        self.results = json.loads(self.results_path.read_text()) if self.results_path.exists() else {}

    def sync(self):
        files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               check=True).stdout.split("\n")
        for name in filter(None, files):
            source, target = ROOT / name, self.tree / name
            if source.is_file() and (not target.exists() or source.read_bytes() != target.read_bytes()):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        if not (self.build / "build.ninja").exists():
            subprocess.run(["meson", "setup", self.build, self.tree, "-Db_sanitize=address", "-Dwerror=false",
                            "-Doptimization=1", "-Ddebug=false"], stdout=subprocess.DEVNULL, check=True)

    def ninja(self, programs):
        return subprocess.run(["ninja", "-C", self.build, f"-j{self.jobs}", *programs], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)

    def commands(self, program):
        """How it is compiled and linked, from ninja."""
        if program not in self.known:
            self.known[program] = self.ninja(["-t", "commands", program]).stdout.split("\n")
        return self.known[program]

    def rebuild(self, program, file):
        """Compiles what @file changes in @program, and links it; quicker than ninja, which would do all
        that includes a header. Static libraries are thin, so that the link takes the new object."""
        source = file if file.endswith(".c") else program + ".c"
        compiles = [c for c in self.commands(program) if re.search(rf"-c \S*{re.escape(source)}$", c)]
        links = [c for c in self.commands(program) if re.search(rf"-o {re.escape(program)} ", c)]
        self.stale.update(c.split(" -o ")[1].split(" ")[0] for c in compiles)
        return all(subprocess.run(c, shell=True, cwd=self.build, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL).returncode == 0 for c in [*compiles, links[-1]])

    def restore(self):
        """Objects of mutants must not be taken for those of the sources."""
        for name in self.stale:
            (self.build / name).unlink(missing_ok=True)
        self.stale.clear()

    def failing_test(self, programs, file=None):
        """The first test that does not pass, or None. @file: what has been changed."""
        env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        for program in programs:
            program, _, only = program.partition("=")
            if not (self.rebuild(program, file) if file else self.ninja([program]).returncode == 0):
                return "does not compile"
            name = program.split("/")[-1]
            args = [self.build / program]
            if "fuzz" in program:
                args.append(ROOT / "tests/fuzz/seeds" / name[len("fuzz_"):])
            else:
                args += ["--fail-fast", "-j2"] + ([f"--filter={only}"] if only else [])
            # A session of its own: criterion's children go with it where a mutant never ends.
            done = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                    env=env, start_new_session=True, preexec_fn=limit_cpu)
            try:
                output, _ = done.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                return f"{name} (does not end)"
            finally:
                try:
                    os.killpg(done.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                done.wait()
            if done.returncode:
                failed = re.search(r"\[FAIL\][^\w]*(\w+::\w+)", re.sub(r"\x1b\[[\d;]*m", "", output))
                return failed.group(1) if failed else name
        return None

    def key(self, mutant, programs):
        h = hashlib.sha256(mutant.name.encode())
        h.update(mutant.text.encode())
        for program in programs:
            h.update(program.encode())
        return h.hexdigest()[:24]

    def try_one(self, mutant, programs):
        target = self.tree / mutant.file
        target.write_text(mutant.text[:mutant.start] + mutant.by + mutant.text[mutant.end:])
        try:
            return self.failing_test(programs, mutant.file)
        finally:
            target.write_text(mutant.text)

    def save(self):
        self.results_path.write_text(json.dumps(self.results, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build-mutations")
    parser.add_argument("--seconds", type=int, default=0, help="stop after so many; the next run goes on")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--report", action="store_true", help="print what is known, try nothing")
    parser.add_argument("--table", action="store_true", help="print each mutant with the test that fails")
    parser.add_argument("files", nargs="*", help="only these")
    args = parser.parse_args()
    plan, accepted, bench = read_guards(), read_accepted(), Bench(args.build.resolve())
    todo = [(m, plan[f]) for f in plan if not args.files or f in args.files for m in mutants_of(f)]
    if args.list:
        print("\n".join(m.name for m, _ in todo))
        return 0
    started, untried, survived, rows, checked = time.monotonic(), 0, [], [], set()
    if not args.report:
        args.build.mkdir(exist_ok=True)
        bench.sync()
    for mutant, programs in todo:
        key = bench.key(mutant, programs)
        if key not in bench.results and mutant.name not in accepted:
            if args.report or (args.seconds and time.monotonic() - started > args.seconds):
                untried += 1
                continue
            if mutant.file not in checked:
                checked.add(mutant.file)
                bench.restore()
                by = bench.failing_test(programs)
                if by:
                    sys.exit(f"mutations: {by} fails before anything was changed")
            bench.results[key] = bench.try_one(mutant, programs)
            bench.save()
            print(f"{mutant.name}: {bench.results[key]}", file=sys.stderr, flush=True)
        by = bench.results.get(key)
        rows.append((mutant.name, by or ("accepted: " + accepted[mutant.name] if mutant.name in accepted else "")))
        if mutant.name not in accepted and by in (None, "does not compile"):
            survived.append(f"{mutant.name}{' (does not compile)' if by else ''}")
    bench.restore()
    if args.table:
        for name, by in rows:
            print(f"{name}\n    {by or 'SURVIVED'}")
    for name in survived:
        print(f"survived: {name}")
    known = {m.name for f in plan for m in mutants_of(f)}
    for name in accepted:
        if name not in known:
            print(f"accepted.txt names what is not there: {name}")
            survived.append(name)
    n_accepted = sum(m.name in accepted for m, _ in todo)
    print(f"{len(todo)} mutants: {len(todo) - untried - len(survived) - n_accepted} killed, {len(survived)} survived, "
          f"{n_accepted} accepted, {untried} not tried")
    return 1 if survived else 0


sys.exit(main())
