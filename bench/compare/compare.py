#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Starts each back-end of a recipe, measures them in turn, and tells medians, ratios and spread."""
import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

try:
    import recipe
    import report
    import run
except ImportError as missing:
    if missing.name != "yaml":
        raise
    recipe = None  # pylint: disable=invalid-name


def options_of(argv):
    parser = argparse.ArgumentParser(prog="sluice-bench compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="a recipe, or the name of one that came with the program")
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--time", type=int, metavar="SECONDS", help="of each run, instead of the recipe's")
    parser.add_argument("--image", metavar="WHAT", help="a path, or a size as 256M, instead of the recipe's")
    parser.add_argument("--folder", metavar="DIR", help="where an image is made (/var/tmp)")
    parser.add_argument("--pin", metavar="BACKEND,DRIVER", help="CPUs, or none, instead of the recipe's")
    parser.add_argument("--only", metavar="NAME;...", help="these back-ends alone")
    parser.add_argument("--workload", metavar="NAME", action="append",
                        help="this one alone, or those that a pattern as '*depth 1' means; may be said again")
    parser.add_argument("--svg", metavar="FILE", help="draw a chart")
    parser.add_argument("--png", metavar="FILE", help="draw a chart (needs rsvg-convert)")
    parser.add_argument("--json", action="store_true", help="for machines: all rounds")
    parser.add_argument("--check", action="store_true", help="read the recipe, say what would run, and start nothing")
    parser.add_argument("--sluice-bench", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--libexec", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def narrowed(read, only):
    names = [n.strip() for n in only.split(";")]
    for n in names:
        if n not in read.backends:
            raise recipe.RecipeError(f"--only {n}: no such back-end; there are {'; '.join(read.backends)} (separated by ;)")
    read.backends = {n: read.backends[n] for n in names}
    read.workloads = {w: a for w, a in read.workloads.items() if any(b.takes(w) for b in read.backends.values())}
    if read.base not in names:
        read.base = names[0]


def draw(options, read, results):
    text = report.svg(read, results)
    if options.svg:
        Path(options.svg).write_text(text, encoding="utf-8")
    if options.png:
        from_file = Path(options.svg or options.png + ".svg")
        from_file.write_text(text, encoding="utf-8")
        report.write_png(from_file, options.png)
        if not options.svg:
            from_file.unlink()


def check_places(options):
    """Before anything runs for minutes."""
    for option, path in (("folder", options.folder), ("svg", options.svg), ("png", options.png)):
        folder = path if option == "folder" else path and os.path.dirname(path) or "."
        if path and not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
            raise recipe.RecipeError(f"--{option} {path}: {'' if folder == path else folder + ' '}is no folder that can be written "
                                     f"to; say one that is")
        if path and option != "folder" and os.path.isdir(path):
            raise recipe.RecipeError(f"--{option} {path}: is a folder; say a file")


def tell_plan(read, bench):
    absent = {n: bench.missing(b) for n, b in read.backends.items()}
    read.backends = {n: b for n, b in read.backends.items() if not absent[n]}
    print(f"{read.title}: {'; '.join(read.backends)}\n{'; '.join(read.workloads)}\n{report.planned(read)} runs of {read.time} s")
    for name, programs in absent.items():
        if programs:
            print(f"{name}: skipped, {run.NOT_INSTALLED}{', '.join(programs)}")
    return 0


def compare(options):
    if options.png and not report.can_png():
        raise recipe.RecipeError(f"--png {options.png}: rsvg-convert is not installed (librsvg2-bin); --svg needs nothing")
    if not shutil.which("taskset"):
        raise recipe.RecipeError("taskset is not installed (util-linux); back-ends are pinned with it")
    check_places(options)
    read = recipe.load(recipe.find(options.file), rounds=options.rounds, time=options.time, image=options.image,
                       pin=None if options.pin is None else recipe.pin_said(options.pin))
    if options.only is not None:
        narrowed(read, options.only)
    if options.workload:
        recipe.workloads_said(read, options.workload)
    bench = run.Bench(read, options.sluice_bench, options.folder, options.libexec)
    bench.check_arguments()
    if options.check:
        return tell_plan(read, bench)
    with bench:
        results = run.in_turn(bench, lambda text: print(text, file=sys.stderr, flush=True))
    # The back-end has ended: another signal ends this at once.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if options.json:
        json.dump(report.as_json(read, results, bench.stopped), sys.stdout, indent=1)
        print()
    else:
        print(f"{read.title}\n\n" + "\n".join(report.markdown(read, results, bench.stopped)))
    if bench.stopped:
        return 128 + bench.stopped
    draw(options, read, results)
    # Nothing to compare is a failure, and so is a peer that failed; one that is not installed is none.
    failed = [why for f in results.values() for why in f.failed.values() if not why.startswith(run.NOT_INSTALLED)]
    return 0 if all(f.found for f in results.values()) and not failed else 1


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop(number, _):
    """The back-end that runs, in a session of its own, is ended on the way out; a second signal must not hinder that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise run.Stopped(number)


if __name__ == "__main__":
    said = options_of(sys.argv[1:])
    if not recipe:
        sys.exit("sluice-bench: compare reads YAML with Python: install python3-yaml")
    for name in SIGNALS:
        signal.signal(name, stop)
    try:
        code = compare(said)
        sys.stdout.flush()
        sys.exit(code)
    except recipe.RecipeError as e:
        print(f"sluice-bench: {e}", file=sys.stderr)
        sys.exit(2)
    except OSError as e:
        with contextlib.suppress(OSError):
            print(f"sluice-bench: {f'{e.filename}: ' if e.filename else ''}{e.strerror or e}", file=sys.stderr, flush=True)
        # What could not be written would be tried again at the end, with a code of its own.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        sys.exit(1)
    except run.Stopped as e:
        sys.exit(128 + e.number)
