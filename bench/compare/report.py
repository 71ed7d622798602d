# SPDX-License-Identifier: Apache-2.0
"""Tables and charts of what was found."""
import os
import platform
import re
import shutil
import signal
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

LONGEST, CUT_AT = 470, 490  # bars, in pixels
COLORS = ("#1b7f79", "#7fb8b4", "#8c8c8c", "#c4c4c4", "#b5793a", "#d9b48a", "#5a6f9c", "#a6b3cf")


def scale_of(results):
    """What rates are divided by, and what that is called."""
    most = max((f.rate(n) for f in results.values() for n in f.names()), default=0)
    return (1e6, "M") if most >= 1e7 else (1e3, "k") if most >= 1e4 else (1, "")


def number(value):
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def spread_note(recipe, f, name):
    """The spread, which one round has not; of whom there are fewer rounds than of the others, for it failed part-way, that is said."""
    n = len(f.found[name])
    notes = [f"{100 * f.spread(name):.0f} %"] if n > 1 else []
    notes += [f"{n} round{'' if n == 1 else 's'} only"] if n != recipe.rounds else []
    return f" ({'; '.join(notes)})" if notes else ""


STEAL_MAX = 0.01  # of a run's time: with more of it stolen the run says little


def steal_of(recipe, results):
    """How many rounds had more than STEAL_MAX stolen, and how many there are of which that is known."""
    told = [x.get("steal_s") for f in results.values() for rounds in f.found.values() for x in rounds.values()]
    known = [s for s in told if s is not None and s >= 0]
    return sum(s > STEAL_MAX * recipe.time for s in known), len(known)


def rounds_done(results):
    return sum(len(rounds) for f in results.values() for rounds in f.found.values())


def planned(recipe):
    """Runs, of one back-end in one round and workload."""
    return sum(min(recipe.rounds, b.rounds or recipe.rounds) * b.takes(w) for b in recipe.backends.values() for w in recipe.workloads)


def markdown(recipe, results, stopped=None):
    """Lines: a table of medians and spread, one of ratios and CPU time, what was stolen, said and is missing."""
    names = [n for n in recipe.backends if any(n in f.found for f in results.values())]
    lines = []
    if stopped:
        lines = [f"**Cut short** by {signal.Signals(stopped).name}: {rounds_done(results)} of {planned(recipe)} runs were done.", ""]
    if names:
        div, letter = scale_of(results)
        lines += [f"{recipe.unit[0].upper()}{recipe.unit[1:]}{', ' + letter if letter else ''}: "
                  + (f"median of {recipe.rounds} rounds, and in brackets the spread between the slowest and the fastest"
                     if recipe.rounds > 1 else "of one round"), "",
                  "| workload | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
        for w, f in results.items():
            lines.append(f"| {w} | " + " | ".join(
                f"{number(f.rate(n) / div)}{spread_note(recipe, f, n)}" if n in f.found else "-" for n in names) + " |")
        lines += ["", f"How many times as fast {recipe.base} is, round by round; and CPU seconds per million", "",
                  "| workload | " + " | ".join([f"to {n}" for n in names if n != recipe.base]
                                               + [f"CPU: {n}" for n in names]) + " |",
                  "| --- |" + " ---: |" * (2 * len(names) - (recipe.base in names))]
        for w, f in results.items():
            ratios = [f.ratio(recipe.base, n) for n in names if n != recipe.base]
            lines.append(f"| {w} | " + " | ".join(
                ["-" if r is None else f"{r:.2f}" for r in ratios]
                + [f"{f.cpu(n):.3f}" if n in f.found and f.cpu(n) >= 0 else "-" for n in names]) + " |")
        stolen, known = steal_of(recipe, results)
        lines += ["", f"{stolen} of {known} rounds with more than 1 % of the time stolen (steal)." if known else
                  "How much time was stolen is not known."]
    return lines + said(results) + missing(results)


def said(results):
    """What sluice-bench said of a back-end and went on, each once."""
    lines = {(n, line): True for f in results.values() for n in f.said for line in f.said[n]}
    return ["", *(f"- **{n}**: {line}" for n, line in lines)] if lines else []


def missing(results):
    """What failed, each reason once."""
    reasons = {}
    for w, f in results.items():
        for n, why in f.failed.items():
            reasons.setdefault((n, why), []).append(w)
    if not reasons:
        return []
    return ["", *(f"- **{n}**{'' if len(ws) == len(results) else ' (' + '; '.join(ws) + ')'}: {why}"
                  for (n, why), ws in reasons.items())]


def machine():
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    return {"cpu": cpu.group(1) if cpu else platform.machine(), "cpus": os.cpu_count(), "kernel": platform.release()}


def as_json(recipe, results, stopped=None):
    return {"title": recipe.title, "unit": recipe.unit, "figure": ".".join(recipe.figure) or "rate", "rounds": recipe.rounds,
            "time_s": recipe.time, "base": recipe.base, "pin": recipe.pins, "machine": machine(),
            "cut_short": bool(stopped),
            "rounds_done": rounds_done(results), "rounds_stolen": steal_of(recipe, results)[0],
            "workloads": {
                w: {"back-ends": {n: {"rate": f.rate(n), "spread": f.spread(n), "cpu_s_per_million": f.cpu(n),
                                      "ratio_of_base": f.ratio(recipe.base, n), "said": list(f.said.get(n, ())),
                                      "rounds": [{"round": k, **v} for k, v in f.found[n].items()]} for n in f.names()},
                    "failed": f.failed} for w, f in results.items()}}


def longest_bar(recipe, results):
    """The highest rate of those that take part in each workload; of all where there are none. What is measured here and there
    alone, as the ring's limit beside a disk, would leave no bar of the others to be seen."""
    rates = [(recipe.backends[n].workloads, f.rate(n)) for f in results.values() for n in f.names()]
    return max((r for some, r in rates if not some), default=0) or max((r for _, r in rates), default=0) or 1


def svg(recipe, results):
    """For each workload a group of bars. Those beyond the scale are cut."""
    names = [n for n in recipe.backends if any(n in f.found for f in results.values())]
    div, letter = scale_of(results)
    most = longest_bar(recipe, results)
    left, bar, per_row = 230, 13, 3
    top = 34 + 18 * -(-len(names) // per_row)
    group = bar * max(len(names), 1) + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="{top + 8 + group * len(results)}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="#fff"/>',
           f'<text x="8" y="18" font-size="14">{escape(recipe.title)}</text>']
    for k, name in enumerate(names):
        x, y = 8 + k % per_row * 260, 28 + k // per_row * 18
        out.append(f'<rect x="{x}" y="{y}" width="12" height="10" fill="{COLORS[k % len(COLORS)]}"/>'
                   f'<text x="{x + 16}" y="{y + 9}">{escape(name)}</text>')
    for i, (workload, f) in enumerate(results.items()):
        y = top + i * group
        out.append(f'<text x="8" y="{y + group // 2}">{escape(workload)}</text>')
        for k, name in enumerate(names):
            at = y + k * bar
            if name not in f.found:
                out.append(f'<text x="{left + 4}" y="{at + 10}" font-size="10" fill="#888">none</text>')
                continue
            full = LONGEST * f.rate(name) / most
            length, cut = min(full, CUT_AT), "(cut) " if full > CUT_AT else ""
            out.append(f'<rect x="{left}" y="{at}" width="{length:.0f}" height="{bar - 1}" '
                       f'fill="{COLORS[k % len(COLORS)]}"/><text x="{left + length + 4:.0f}" y="{at + 10}" '
                       f'font-size="10">{cut}{number(f.rate(name) / div)} {letter}</text>')
    return "\n".join(out + ["</svg>", ""])


def can_png():
    return shutil.which("rsvg-convert") is not None


def write_png(svg_file, png_file):
    subprocess.run(["rsvg-convert", "--zoom", "2", "--output", str(png_file), str(svg_file)], check=True)
