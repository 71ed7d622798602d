# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md says of each message and feature whether it is served, and which test shows it.

Compared with vhost/messages.def, with what device.c offers, and with the tests there are.
"""

import re
import sys
from pathlib import Path

root = Path(sys.argv[1])
doc = (root / "docs/protocol.md").read_text()
wrong = []


def section(title):
    return doc.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text):
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if line.startswith("|") and re.match(r"\d", cells[0]):
            yield cells


def test_names():
    names = set()
    for path in (root / "tests").rglob("*"):
        if path.suffix in (".c", ".h", ".py") and path.is_file():
            text = path.read_text(errors="replace")
            for arguments in re.findall(r"\b(?:Test|\w+_TEST\w*)\(([^)]*)\)", text):
                names |= set(re.findall(r"\w+", arguments))
            names |= set(re.findall(r"\bdef (test_\w+)", text))
    return names


def shown(cells, what, last, needed):
    """The tests that a cell names exist; where one is needed there is one."""
    found = re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+){2,}\b", last)
    for name in found:
        if name not in tests:
            wrong.append(f"{what}: there is no test {name}")
    if needed and not found:
        wrong.append(f"{what}: names no test that shows it")
    if not needed and not last:
        wrong.append(f"{what}: says neither why not nor what shows it")


tests = test_names()

# Messages.
definitions = {
    int(number): (name, handler != "NULL")
    for number, name, handler in re.findall(
        r"^MESSAGE\((\d+), (\w+), .*, (\w+)\)$", (root / "vhost/messages.def").read_text(), re.M
    )
}
told = {}
for cells in rows(section("Messages of the front-end")):
    number, name, disk, net, last = int(cells[0]), *cells[1:5]
    told[number] = name
    served = "yes" in (disk, net)
    if definitions.get(number) != (name, served):
        wrong.append(f"message {number} {name}, served: {served}; messages.def: {definitions.get(number)}")
    shown(cells, name, last, served)
for number in definitions.keys() - told.keys():
    wrong.append(f"message {number} {definitions[number][0]} is not in the table")

# Protocol features.
bits = {
    name: int(bit)
    for name, bit in re.findall(
        r"VHOST_USER_PROTOCOL_F_(\w+) = (\d+)", (root / "vhost/protocol.h").read_text()
    )
}
offered = set(
    re.findall(
        r"feature_bit\(VHOST_USER_PROTOCOL_F_(\w+)\)",
        (root / "vhost/device.c").read_text().split("device_protocol_features(", 1)[1].split("\n}\n", 1)[0],
    )
)
features = set()
for cells in rows(section("Protocol features")):
    bit, name, disk, net = int(cells[0]), *cells[1:4]
    features.add(name)
    shown(cells, f"feature {name}", cells[-1], "yes" in (disk, net))
    if bits.get(name, bit) != bit:
        wrong.append(f"feature {name} has bit {bits[name]}, not {bit}")
    if ("yes" in (disk, net)) != (name in offered):
        wrong.append(f"feature {name}: the table says {disk}/{net}, and it is offered: {name in offered}")
for name in (set(bits) | offered) - features:
    wrong.append(f"feature {name} is not in the table")

for title in ("Messages of the back-end", "What the text leaves to be understood, and a test for each"):
    for cells in rows(section(title)):
        needed = title.startswith("What") or cells[2] == "yes"
        shown(cells, f"{title}, {cells[0]}", cells[-1], needed)

if not definitions or not bits or not offered or len(tests) < 100:
    wrong.append("nothing was found to compare with")
for line in wrong:
    print(f"docs/protocol.md: {line}")
sys.exit(bool(wrong))
