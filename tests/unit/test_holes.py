#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every test that docs/hostile-input.md names exists, and every class of attack has some."""
import re
import sys
from pathlib import Path

root = Path(sys.argv[1])
sources = {p: p.read_text() for p in (root / "tests").rglob("*.[ch]")}
tests = set()
for text in sources.values():
    # Test(suite, name, …) and macros that make several: RING_TEST_FOR(CASES, suite, name).
    for macro, args in re.findall(r"^(\w*(?:Test|TEST\w*))\(([^)]*)\)", text, re.M):
        words = re.findall(r"\w+", args)
        at = 1 if macro.endswith("TEST_FOR") else 0
        if len(words) >= at + 2:
            tests.add(f"{words[at]}.{words[at + 1]}")
for path in (root / "tests/system").glob("test_*.py"):
    tests.update(f"{path.stem}.{name}" for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M))

page = (root / "docs/hostile-input.md").read_text()
named = set(re.findall(r"`(\w+\.\w+)`", page))
targets = set(re.findall(r"fuzz: (\w+)", page))
fuzzers = set(re.findall(r"^  '(\w+)':", (root / "tests/fuzz/meson.build").read_text(), re.M))
missing = sorted(named - tests) + sorted(f"fuzz: {t}" for t in targets - fuzzers - {"x"})
classes = dict(re.findall(r"^\| (T\d+) \|(.*)$", page, re.M))
for number in range(1, 24):
    if not re.search(r"`\w+\.\w+`", classes.get(f"T{number}", "")):
        missing.append(f"a test for class T{number}")
for name in missing:
    print(f"docs/hostile-input.md names {name}, which does not exist")
if len(named) < 50 or not tests:
    missing.append("far fewer names than there were")
    print(missing[-1])
sys.exit(1 if missing else 0)
