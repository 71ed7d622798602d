#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Includes run one way: daemon -> net, blk -> vhost -> poll -> base (docs/architecture.md).

Usage: test_layering.py SOURCE_ROOT

First checks itself on a little tree with one offence of each kind, so that a rule that has stopped
working is found out; then the sources.
"""

import pathlib
import re
import sys
import tempfile

# Folder: the folders whose headers it may include. The first that matches a file's path counts.
LAYERS = [
    ("base", {"base"}),
    ("poll", {"base", "poll"}),
    ("vhost", {"base", "poll", "vhost"}),
    ("net", {"base", "poll", "vhost", "net"}),
    ("blk", {"base", "poll", "vhost", "blk"}),
    ("daemon", {"base", "poll", "vhost", "net", "blk", "daemon"}),
    ("cli", {"base", "cli"}),
    # Measures vhost/ring.h beside DPDK's vhost library, so it knows both.
    ("bench/ring", {"base", "poll", "vhost", "bench/ring", "tests/guest"}),
    ("bench", {"base", "bench", "tests/guest"}),
    # The driver's side cross-checks vhost/, and so shares nothing with it.
    ("tests/guest", {"base", "tests/guest"}),
]

# Single headers beside the rule, each with its reason.
EXCEPTIONS = {
    ("cli", "daemon/control_path.h"): "where the control socket is: both programs must agree",
}

# System header (by what its name begins with): the folders that may know of it. tests/ may, too.
LIBRARIES = [
    (re.compile(r"rte_"), {"net", "bench/ring"}, "DPDK"),
    (re.compile(r"liburing"), {"blk", "poll"}, "io_uring"),
    (re.compile(r"linux/io_uring"), {"blk", "poll"}, "io_uring"),
    (re.compile(r"libnbd"), {"blk"}, "NBD"),
    (re.compile(r"(yaml|cyaml)"), {"daemon", "cli"}, "YAML"),
    (re.compile(r"jansson"), {"daemon", "cli"}, "JSON"),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def layer_of(path):
    for name, _ in LAYERS:
        if path.startswith(name + "/"):
            return name
    return None


def check_include(path, layer, allowed, quote, name, root):
    """One include of one file; returns what is wrong with it, or None."""
    if quote == '"':
        if not (root / name).is_file():
            return f'"{name}" is not a file; includes are written from the root'
        target = next((n for n, _ in LAYERS if name.startswith(n + "/")), name.split("/")[0])
        if target not in allowed and (layer, name) not in EXCEPTIONS:
            return f'{layer}/ must not include "{name}": it may know {", ".join(sorted(allowed))}'
        return None
    for pattern, folders, what in LIBRARIES:
        if pattern.match(name) and layer not in folders:
            return f"<{name}>: {what} is known to {', '.join(sorted(folders))} alone"
    return None


def check(root):
    """All offences under root, as lines, and how many files were looked at."""
    offences, files = [], 0
    for top in sorted({name.split("/")[0] for name, _ in LAYERS}):
        for file in sorted((root / top).rglob("*.[ch]")):
            path = file.relative_to(root).as_posix()
            layer = layer_of(path)
            if layer is None:
                continue
            allowed = dict(LAYERS)[layer]
            files += 1
            for number, line in enumerate(file.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                what = match and check_include(path, layer, allowed, *match.groups(), root)
                if what:
                    offences.append(f"{path}:{number}: {what}")
    return offences, files


# One offence for each rule, and what is fine.
SELF_TEST = {
    "base/a.h": "",
    "poll/a.h": '#include "base/a.h"\n#include <liburing.h>\n',
    "vhost/a.h": '#include "poll/a.h"\n',
    "net/a.h": '#include "vhost/a.h"\n#include <rte_mbuf.h>\n',
    "blk/a.h": '#include "vhost/a.h"\n#include <liburing.h>\n',
    "daemon/a.c": '#include "net/a.h"\n#include "blk/a.h"\n#include <jansson.h>\n#include <yaml.h>\n',
    "cli/a.c": '#include "base/a.h"\n#include <jansson.h>\n',
    "tests/guest/a.h": '#include "base/a.h"\n',
    "tests/unit/a.c": '#include "tests/guest/a.h"\n#include <rte_mbuf.h>\n',
    "bench/ring/a.h": '#include "vhost/a.h"\n#include <rte_vhost.h>\n',
    "bench/a.h": '#include "tests/guest/a.h"\n',
    "bench/bad.c": '#include "vhost/a.h"\n',
    "bench/bad_dpdk.c": "#include <rte_vhost.h>\n",
    "base/bad.c": '#include "poll/a.h"\n',
    "poll/bad.c": '#include "vhost/a.h"\n',
    "vhost/bad.c": '  #  include "net/a.h"\n',
    "net/bad.c": '#include "blk/a.h"\n',
    "blk/bad.c": '#include "net/a.h"\n',
    "cli/bad.c": '#include "vhost/a.h"\n',
    "tests/guest/bad.c": '#include "vhost/a.h"\n',
    "daemon/bad_path.c": '#include "a.h"\n',
    "daemon/bad_dpdk.c": "#include <rte_ethdev.h>\n",
    "net/bad_uring.c": "#include <liburing.h>\n",
    "daemon/bad_nbd.c": "#include <libnbd.h>\n",
    "vhost/bad_json.c": "#include <jansson.h>\n",
    "blk/bad_yaml.c": "#include <yaml.h>\n",
}


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in SELF_TEST.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        found = {line.split(":")[0] for line in check(root)[0]}
    expected = {name for name in SELF_TEST if "bad" in name}
    if found != expected:
        sys.exit(f"self-test: missed {expected - found}, wrongly refused {found - expected}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    self_test()
    offences, files = check(pathlib.Path(sys.argv[1]))
    print("\n".join(offences))
    if files < 20:
        sys.exit(f"only {files} sources under {sys.argv[1]}: is that the source root?")
    if offences:
        sys.exit(f"{len(offences)} includes run the wrong way")
    print(f"{files} sources, every include runs the right way")


main()
