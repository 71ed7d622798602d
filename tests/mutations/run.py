#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Takes guards out of the code, one at a time, and sees that a test fails for each.

A guard is an `if` whose branch leaves: a return, break, continue or goto. Each part of its condition
that || joins is a guard of its own. guards.txt says in which files they are looked for and which test
programs should notice; mutants.txt adds changes that are no `if` (a clamp, a mask); accepted.txt lists
the guards that no test can notice, with the reason.

Works on a copy of the sources in a build folder of its own (ASan), so that the tree is left alone, and
remembers there what it has tried: a run that is stopped goes on where it was. All guards of a file are built
at once, with a switch each. Prints each mutant that survived, and how many there were; exits 1 if one
survived that is not accepted. --check, which is one of the unit tests, only sees that the three lists speak
of what is there.
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
STALE = set()  # what the lists name and is not there
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


def extra_blocks():
    """Blocks of: the file's name, a line of `-` and the text to be found once, one of `+` and its place."""
    for block in (HERE / "mutants.txt").read_text().split("\n\n"):
        lines = [line for line in block.split("\n") if line and line[0] != "#"]
        if lines:
            yield lines


def extra_mutants(file):
    for lines in extra_blocks():
        if lines[0] != file:
            continue
        old = "\n".join(line[1:] for line in lines[1:] if line[0] == "-")
        new = "\n".join(line[1:] for line in lines[1:] if line[0] == "+")
        text = (ROOT / file).read_text()
        if text.count(old) != 1:
            STALE.add(f"mutants.txt names what is {text.count(old)} times in {file}: {' '.join(old.split())}")
            continue
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
            if file in plan:
                STALE.add(f"guards.txt names {file} twice")
            plan[file] = programs.split()
    return plan


def stale_lines(plan, accepted, every):
    """What guards.txt, mutants.txt and accepted.txt say of what is not there."""
    sources = [program.partition("=")[0] + ".c" for programs in plan.values() for program in programs]
    stale = {f"guards.txt names a program without {name}" for name in sources if not (ROOT / name).exists()}
    stale |= {f"mutants.txt changes {lines[0]}, which guards.txt does not name"
              for lines in extra_blocks() if lines[0] not in plan}
    stale |= {f"accepted.txt names what is not there: {name}" for name in set(accepted) - {m.name for m in every}}
    return sorted(STALE | stale)


def read_accepted():
    """Name of a mutant, a tab, the reason."""
    lines = (HERE / "accepted.txt").read_text().split("\n")
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def limit_cpu():
    """A mutant that spins ends by itself, in whatever process."""
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))


SWITCH = """#ifndef MUTANT
#define MUTANT(n, by, guard) (mutant_tried == (n) ? (by) : (guard))
char *getenv(const char *name);
int atoi(const char *number);
static int mutant_tried;
__attribute__((constructor)) static void mutant_choose(void)
{
	const char *number = getenv("SLUICE_MUTANT");

	mutant_tried = number ? atoi(number) : 0;
}
#endif
#line 1
"""


def with_switches(text, mutants):
    """The source with all of @mutants in it, each taken out by its number in the environment: one build
    does for all."""
    for number, m in sorted(enumerate(mutants, 1), key=lambda nm: -nm[1].start):
        text = f"{text[:m.start]}MUTANT({number}, {m.by}, ({text[m.start:m.end]})){text[m.end:]}"
    return SWITCH + text


class Bench:
    def __init__(self, build):
        self.tree, self.build = build / "tree", build / "out"
        self.results_path = build / "results.json"
        self.jobs = os.environ.get("JOBS", os.cpu_count())
        self.known, self.deps, self.stale, self.took = {}, {}, set(), {}
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

    def depends(self, command, file):
        """Whether what @command compiles is @file, or includes it."""
        if file.endswith(".c"):
            return re.search(rf"-c \S*{re.escape(file)}$", command)
        if not self.deps:
            for block in self.ninja(["-t", "deps"]).stdout.split("\n\n"):
                target, _, names = block.strip().partition(": ")
                self.deps[target] = {os.path.basename(n) for n in names.split()}
        return os.path.basename(file) in self.deps.get(command.split(" -o ")[1].split(" ")[0], ())

    def rebuild(self, program, file):
        """Compiles what @file changes in @program, and links it; quicker than ninja, which would do all
        that includes a header. Static libraries are thin, so that the link takes the new object."""
        compiles = [c for c in self.commands(program) if " -c " in c and self.depends(c, file)]
        links = [c for c in self.commands(program) if re.search(rf"-o {re.escape(program)} ", c)]
        self.stale.update(c.split(" -o ")[1].split(" ")[0] for c in compiles)
        return all(subprocess.run(c, shell=True, cwd=self.build, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL).returncode == 0 for c in [*compiles, links[-1]])

    def restore(self):
        """Objects of mutants must not be taken for those of the sources."""
        for name in self.stale:
            (self.build / name).unlink(missing_ok=True)
        self.stale.clear()

    def build_programs(self, programs, file=None):
        """@file: what has been changed since ninja built them."""
        names = dict.fromkeys(p.partition("=")[0] for p in programs)
        return all([self.rebuild(p, file) if file else self.ninja([p]).returncode == 0 for p in names])

    def fails(self, program, only, number):
        """The test of @program that does not pass, or None."""
        name = program.split("/")[-1]
        args = [self.build / program]
        if "fuzz" in program:
            args.append(ROOT / "tests/fuzz/seeds" / name[len("fuzz_"):])
        else:
            args += ["--fail-fast", "-j2"] + ([f"--filter={only}"] if only else [])
        env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "SLUICE_MUTANT": str(number)}
        # A session of its own: criterion's children go with it where a mutant never ends.
        done = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                env=env, start_new_session=True, preexec_fn=limit_cpu)
        try:
            # By the second: time in which all of this was stopped does not count.
            for _ in range(120):
                try:
                    output, _ = done.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    pass
            else:
                return f"{name} (does not end)"
        finally:
            try:
                os.killpg(done.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            done.wait()
        if done.returncode == 0:
            return None
        failed = re.search(r"\[FAIL\][^\w]*(\w+::\w+)", re.sub(r"\x1b\[[\d;]*m", "", output))
        return failed.group(1) if failed else name

    def failing_test(self, programs, number=0):
        """The first test that does not pass, or None. It has to fail again by itself: tests that wait may
        fail on a machine that is busy with something else."""
        for entry in programs:
            program, _, only = entry.partition("=")
            for _ in range(3):
                started = time.monotonic()
                by = self.fails(program, only, number)
                self.took[entry] = time.monotonic() - started
                if not by or "::" not in by or self.fails(program, by.replace("::", "/"), number):
                    break
            if by:
                return by
        return None

    def key(self, mutant, programs):
        h = hashlib.sha256(mutant.name.encode())
        h.update(mutant.text.encode())
        for program in programs:
            h.update(program.encode())
        return h.hexdigest()[:24]

    @staticmethod
    def tests_digest(root, programs):
        """Who survived is tried again when its tests have changed."""
        h = hashlib.sha256()
        for program in programs:
            h.update((root / (program.partition("=")[0] + ".c")).read_bytes())
        return h.hexdigest()[:24]

    def known_result(self, mutant, programs):
        """@return whether it was tried, and the test that failed."""
        by = self.results.get(self.key(mutant, programs), {"survived": None})
        if isinstance(by, str):
            return True, by
        return bool(by) and by["survived"] == self.tests_digest(ROOT, programs), None

    def try_file(self, mutants, programs):
        """Those of one file. Yields each with the test that failed."""
        switched = [m for m in mutants if m.by in "01"]
        self.restore()
        if not self.build_programs(programs):
            sys.exit("mutations: the sources do not build")
        target = self.tree / mutants[0].file
        try:
            target.write_text(with_switches(mutants[0].text, switched))
            if not self.build_programs(programs, mutants[0].file):
                sys.exit(f"mutations: {mutants[0].file} does not build with its guards switched")
            by = self.failing_test(programs)
            if by:
                print(f"mutations: {by} fails before anything was changed in {target.name}", file=sys.stderr)
                return
            programs = sorted(programs, key=lambda entry: self.took[entry])  # most fall to a quick one
            for number, m in enumerate(switched, 1):
                yield m, self.failing_test(programs, number)
            for m in mutants:
                if m in switched:
                    continue
                target.write_text(m.text[:m.start] + m.by + m.text[m.end:])
                built = self.build_programs(programs, m.file)
                yield m, self.failing_test(programs) if built else "does not compile"
        finally:
            target.write_text(mutants[0].text)

    def record(self, mutant, programs, by):
        self.results[self.key(mutant, programs)] = by or {"survived": self.tests_digest(self.tree, programs)}
        self.results_path.write_text(json.dumps(self.results, indent=1))


def summary(rows):
    """@rows: of (file, verdict)."""
    print(f"{'file':32}{'mutants':>9}{'killed':>9}{'accepted':>9}{'survived':>9}{'untried':>9}")
    for file in [*dict.fromkeys(f for f, _ in rows), "all"]:
        verdicts = [v for f, v in rows if file in (f, "all")]
        counts = [len(verdicts)] + [verdicts.count(v) for v in ("killed", "accepted", "survived", "untried")]
        print(f"{file:32}" + "".join(f"{n:9}" for n in counts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build-mutations")
    parser.add_argument("--seconds", type=int, default=0, help="stop after so many; the next run goes on")
    parser.add_argument("--sample", type=int, default=0, help="only so many, always the same ones")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--check", action="store_true", help="only see that the lists fit the sources")
    parser.add_argument("--report", action="store_true", help="print what is known, try nothing")
    parser.add_argument("--table", action="store_true", help="print each mutant with the test that fails")
    parser.add_argument("only", nargs="*", help="files, or parts of the names of mutants")
    args = parser.parse_args()
    plan, accepted, bench = read_guards(), read_accepted(), Bench(args.build.resolve())
    every = [m for f in plan for m in mutants_of(f)]
    stale = stale_lines(plan, accepted, every)
    if args.check:
        print("\n".join(stale) or f"{len(every)} mutants, and every line of the lists speaks of what is there")
        return 1 if stale else 0
    chosen = [m for m in every if not args.only or any(part in m.name for part in args.only)]
    if args.sample:
        chosen = sorted(chosen, key=lambda m: hashlib.sha256(m.name.encode()).digest())[:args.sample]
    if args.list:
        print("\n".join(m.name for m in chosen))
        return 0
    if not args.report:
        args.build.mkdir(exist_ok=True)
        bench.sync()
        started = time.monotonic()
        for file, programs in plan.items():
            todo = [m for m in chosen if m.file == file and m.name not in accepted
                    and not bench.known_result(m, programs)[0]]
            for mutant, by in bench.try_file(todo, programs) if todo else []:
                bench.record(mutant, programs, by)
                print(f"{mutant.name}: {by or 'SURVIVED'}", file=sys.stderr, flush=True)
                if args.seconds and time.monotonic() - started > args.seconds:
                    break
            if args.seconds and time.monotonic() - started > args.seconds:
                break
        bench.restore()
    rows, lines = [], []
    for m in chosen:
        tried, by = bench.known_result(m, plan[m.file])
        verdict = ("accepted" if m.name in accepted else "untried" if not tried
                   else "survived" if by in (None, "does not compile") else "killed")
        rows.append((m.file, verdict))
        lines.append((m.name, accepted.get(m.name, by or verdict)))
        if verdict == "survived":
            print(f"survived: {m.name}{' (does not compile)' if by else ''}")
    for line in stale:
        print(line)
    if args.table:
        for name, by in lines:
            print(f"{name}\n    {by}")
    summary(rows)
    return 1 if stale or any(verdict == "survived" for _, verdict in rows) else 0


sys.exit(main())
