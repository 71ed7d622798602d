# SPDX-License-Identifier: Apache-2.0
"""What is compared: a YAML file, checked as a whole before anything is started (sluice-bench(1))."""
import dataclasses
import fnmatch
import os
import re
import reprlib
from pathlib import Path

import virtio_user
import yaml

HERE = Path(__file__).resolve().parent


class RecipeError(Exception):
    """A sentence: file, key, value, remedy."""


@dataclasses.dataclass
class Backend:
    """How one back-end is started. Texts may hold placeholders."""
    name: str
    command: list
    kind: str = "vhost-user"    # or "fio": the command measures the image itself, without a back-end
    needs: list = dataclasses.field(default_factory=list)      # programs, else it is skipped by name
    sockets: list = dataclasses.field(default_factory=list)    # {socket.NAME} is a path in {folder}
    connects: bool = False      # it connects to the sockets, and sluice-bench makes them
    output: str = ""            # ready when a line of its output matches; else when all sockets are there
    settle: float = 0.1         # seconds from there to the first connection
    files: dict = dataclasses.field(default_factory=dict)      # name in {folder}: text
    setup: list = dataclasses.field(default_factory=list)      # commands, once it is ready
    environment: dict = dataclasses.field(default_factory=dict)
    arguments: list = dataclasses.field(default_factory=list)  # of sluice-bench, after the workload's
    workloads: list = dataclasses.field(default_factory=list)  # those that it takes part in; none: all
    rounds: int = 0             # at most so many; 0: all
    busy: bool = False          # fio: a busy loop has the driver's CPU meanwhile, where others have a driver that polls

    def takes(self, workload):
        return not self.workloads or workload in self.workloads


@dataclasses.dataclass
class Recipe:
    file: str
    title: str
    unit: str
    rounds: int
    time: int                   # seconds of each run
    pins: dict                  # back-end, driver: CPU or None
    image: object               # bytes of a file that is made, a path, or None
    base: str                   # whose rate the ratios are of
    figure: list                # where a time stands in what sluice-bench tells, instead of the rate; less is better
    backends: dict
    workloads: dict             # name: arguments of sluice-bench


def find(name):
    """A path; or the name of a recipe that came with the program, with or without its .yaml."""
    for path in (Path(name), HERE / name, HERE / f"{name}.yaml"):
        if path.is_file() and (path.parent == HERE or path == Path(name)):
            return path
    if Path(name).is_dir():
        raise RecipeError(f"{name}: is a folder; say a recipe in it")
    known = ", ".join(sorted(p.stem for p in HERE.glob("*.yaml")))
    raise RecipeError(f"{name}: no such file; these came with the program: {known}")


# What a name, a program or a file cannot hold, or a terminal would obey; text may have lines.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\ud800-\udfff]")


def shown(value):
    """Short, whatever is in it: by aliases a few lines of YAML hold more than there is memory for."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 80
    try:
        return brief.repr(value)
    except ValueError:  # more digits than Python likes to print
        return "a very large number"


class Checker:
    """Takes values out of one mapping; each error says where it is."""

    def __init__(self, file, where, mapping, known):
        if not isinstance(mapping, dict):
            what = "nothing is in it; say" if mapping is None else f"{shown(mapping)} is not"
            raise RecipeError(f"{file}: {where + ': ' if where else ''}{what} a mapping of keys to values")
        self.file, self.where, self.mapping = file, where, mapping
        for key in mapping:
            if key not in known:
                self.fail(key, f"unknown; known are {', '.join(sorted(known))}")

    def fail(self, key, why):
        value = self.mapping.get(key)
        name = shown(key) if CONTROL.search(str(key)) else key
        path = f"{self.where}.{name}" if self.where else name
        raise RecipeError(f"{self.file}: {path}: {'' if value is None else shown(value) + ': '}{why}")

    def text(self, key, default=None):
        value = self.mapping.get(key, default)
        if not isinstance(value, str) or not value:
            self.fail(key, "say some text")
        self.check_plain(key, value)
        return value

    def check_plain(self, key, *texts):
        if any(CONTROL.search(t) for t in texts):
            self.fail(key, "a control character is in it; leave it out")

    def number(self, key, default, low, high, kinds=(int,)):
        value = self.mapping.get(key, default)
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            self.fail(key, f"say a number from {low} to {high}")
        return value

    def flag(self, key):
        value = self.mapping.get(key, False)
        if not isinstance(value, bool):
            self.fail(key, "say true or false")
        return value

    def words(self, key, required=False):
        """A list of texts; numbers are taken as texts."""
        value = self.mapping.get(key, [])
        if not isinstance(value, list) or any(isinstance(x, (dict, list, bool)) or x is None for x in value):
            self.fail(key, "say a list of words, [program, argument, ...]")
        if required and not value:
            self.fail(key, "missing; say a list of words, [program, argument, ...]")
        return self.words_of(key, value)

    def words_of(self, key, words):
        try:
            texts = [str(w) for w in words]
        except ValueError:  # more digits than Python likes to print
            self.fail(key, "a number is too large; put it into quotes")
        self.check_plain(key, *texts)
        return texts

    def texts(self, key):
        value = self.mapping.get(key, {})
        if not isinstance(value, dict) or any(isinstance(v, (dict, list)) or v is None for v in value.values()):
            self.fail(key, "say names, each with a text")
        return dict(zip(self.words_of(key, value), self.words_of(key, value.values())))


class DuplicateKey(yaml.MarkedYAMLError):
    """YAML forbids it, and PyYAML takes the last one."""


class Loader(yaml.SafeLoader):  # pylint: disable=too-many-ancestors
    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key.value, str):
                raise DuplicateKey(problem=key.value, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else None)
        return node


def read_yaml(path):
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader)  # a SafeLoader
    except OSError as e:
        raise RecipeError(f"{path}: {e.strerror}") from e
    except DuplicateKey as e:
        raise RecipeError(f"{path}: line {e.problem_mark.line + 1}: {e.problem}: said twice; say it once") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(e).split())}") from e
    # PyYAML's own, for a date, a number or a tag that is none.
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as e:
        raise RecipeError(f"{path}: not YAML: a value in it cannot be read ({e}); put it into quotes") from e
    except RecursionError as e:
        raise RecipeError(f"{path}: not YAML that can be read: it is nested too deeply") from e


def check_names(file, key, mapping):
    """YAML takes no and false for values; str() of those would be another name than the one that was written."""
    for name in mapping:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise RecipeError(f"{file}: {key}: a name is read as {shown(name)}; put it into quotes")
        if CONTROL.search(str(name)) or "\n" in str(name):
            raise RecipeError(f"{file}: {key}: {shown(name)}: a control character is in a name; leave it out")


PLACEHOLDER = re.compile(r"\{([a-z]+(?:\.[A-Za-z0-9_-]+)?)\}")


def fill(text, values):
    """@text with each {name} replaced. Raises KeyError: the name that has no value."""
    return PLACEHOLDER.sub(lambda m: str(values[m.group(1)]), text)


def check_placeholders(c, backend, has_image, pinned):
    known = {"folder", *(f"socket.{s}" for s in backend.sockets)}
    known |= {"image"} if has_image else set()
    known |= {"cpu"} if pinned else set()
    known |= {"rw", "bs", "depth", "time"} if backend.kind == "fio" else set()
    for key, texts in (("command", backend.command), ("files", backend.files.values()),
                       ("environment", backend.environment.values()), ("setup", sum(backend.setup, []))):
        for text in texts:
            for name in PLACEHOLDER.findall(text):
                if name not in known:
                    hint = {"image": "; say image: at the top, or --image", "cpu": "; say pin: back-end: at the top"}.get(name, "")
                    raise RecipeError(f"{c.file}: {c.where}.{key}: {{{name}}}: nothing is known by that name{hint}; "
                                      f"known are {', '.join(sorted(known))}")


BACKEND_KEYS = {"command", "kind", "needs", "sockets", "connects", "ready", "settle", "files", "setup", "environment",
                "arguments", "workloads", "rounds", "busy"}


def backend_of(file, name, mapping, has_image, pinned, workloads):
    c = Checker(file, f"back-ends.{name}", mapping, BACKEND_KEYS)
    command = c.words("command", required=True)
    kind = c.text("kind", "vhost-user")
    if kind not in ("vhost-user", "fio"):
        c.fail("kind", "say vhost-user or fio")
    sockets = c.words("sockets", required=kind == "vhost-user")
    for s in sockets:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,16}", s):
            c.fail("sockets", f"{s}: name sockets with up to 16 letters and digits; {{socket.NAME}} is then its path")
    output = mapping.get("ready", "")
    if not isinstance(output, str):
        c.fail("ready", "say a regular expression that a line of the output matches, or leave it out")
    try:
        re.compile(output)
    except re.error as e:
        c.fail("ready", f"not a regular expression: {e}")
    setup = mapping.get("setup", [])
    if not isinstance(setup, list) or any(not isinstance(x, list) or not x for x in setup):
        c.fail("setup", "say a list of commands, each a list of words")
    backend = Backend(name, command, kind, c.words("needs") or [command[0]], sockets, c.flag("connects"), output,
                      c.number("settle", 0.1, 0, 600, (int, float)), c.texts("files"),
                      [c.words_of("setup", x) for x in setup], c.texts("environment"), c.words("arguments"),
                      c.words("workloads"), c.number("rounds", 0, 0, 1000), c.flag("busy"))
    if backend.busy and kind != "fio":
        c.fail("busy", "fio alone leaves the driver's CPU idle; leave it out")
    for w in backend.workloads:
        if w not in workloads:
            c.fail("workloads", f"{w}: no such workload; there are {'; '.join(workloads)}")
    for name in backend.environment:
        if not name or "=" in name:
            c.fail("environment", f"{name!r} is no name of a variable")
    for f in backend.files:
        if "/" in f or f.startswith("."):
            c.fail("files", f"{f}: say a name without a slash; it is made in {{folder}}")
    check_placeholders(c, backend, has_image, pinned)
    return backend


UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def image_of(c):
    """Bytes, or a path that is there."""
    value = c.mapping.get("image")
    if value is None:
        return None
    size = re.fullmatch(r"(\d{1,12})([KMG]?)", value if isinstance(value, str) else shown(value))
    if size and int(size.group(1)):
        return int(size.group(1)) * UNITS[size.group(2)]
    if isinstance(value, str) and value.startswith("/"):
        if not os.path.exists(value):
            c.fail("image", "is not there; say a file or block device, or a size as 256M for a new file")
        return value
    return c.fail("image", "say the absolute path of a file or block device, or a size as 256M for a new file")


def cpus():
    """Those that a process of ours can be pinned to: what a container or cpuset leaves of them. taskset(1) alone forbids none."""
    now = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
        return sorted(os.sched_getaffinity(0))
    finally:
        os.sched_setaffinity(0, now)


def pins_of(c):
    pin = Checker(c.file, "pin", c.mapping.get("pin", {}), {"back-end", "driver"})
    may, pins = cpus(), {}
    for key, default in (("back-end", 0), ("driver", 1)):
        value = pin.mapping.get(key, default)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value not in may):
            raise RecipeError(f"{c.file}: pin.{key}: {value!r}: this process may run on CPUs {', '.join(map(str, may))}; "
                              "say one of them, or null not to pin, here or by --pin BACKEND,DRIVER")
        pins[key] = value
    return pins


def pin_said(text):
    """What --pin says, as a recipe does: two CPUs, each a number or "none"."""
    words = text.split(",")
    if len(words) != 2 or not all(w == "none" or re.fullmatch(r"[0-9]{1,5}", w) for w in words):
        raise RecipeError(f"--pin {text}: say two CPUs, of the back-end and of the driver, as 2,3; or none for one of them")
    return {key: None if w == "none" else int(w) for key, w in zip(("back-end", "driver"), words)}


def workloads_said(read, patterns):
    """Leaves those alone that --workload names, one by one or by patterns."""
    chosen = set()
    for p in patterns:
        found = {w for w in read.workloads if w == p} or set(fnmatch.filter(read.workloads, p))
        if not found:
            raise RecipeError(f"--workload {p}: no such workload; there are {'; '.join(read.workloads)}")
        chosen |= found
    read.workloads = {w: a for w, a in read.workloads.items() if w in chosen}
    read.backends = {n: b for n, b in read.backends.items() if any(b.takes(w) for w in chosen)}
    if read.base not in read.backends:
        read.base = next(iter(read.backends), read.base)


KEYS = {"title", "unit", "rounds", "time", "pin", "image", "base", "figure", "back-ends", "workloads"}


def load(path, **overrides):
    """The recipe in @path; @overrides: top-level values that are said elsewhere."""
    data = read_yaml(path)
    if isinstance(data, dict):
        data.update({k: v for k, v in overrides.items() if v is not None})
    c = Checker(path, "", data, KEYS)
    pins, image = pins_of(c), image_of(c)
    for key, of in (("back-ends", "a mapping of names to back-ends"),
                    ("workloads", "a mapping of names to arguments of sluice-bench")):
        if not isinstance(data.get(key), dict) or not data[key]:
            c.fail(key, f"say {of}")
        check_names(path, key, data[key])
    loads = Checker(path, "workloads", data["workloads"], set(data["workloads"]))
    workloads = {str(n): loads.words(n, required=True) for n in loads.mapping}
    for n, w in workloads.items():
        if w[0] not in ("blk", "net", "virtio-user"):
            loads.fail(n, f"{w[0]}: the first word is blk, net or virtio-user")
        wrong = virtio_user.why_wrong(w[1:]) if w[0] == "virtio-user" else None
        if wrong:
            loads.fail(n, wrong)
    backends = {str(n): backend_of(path, str(n), b, image is not None, pins["back-end"] is not None, workloads)
                for n, b in data["back-ends"].items()}
    base = c.text("base", next(iter(backends)))
    if base not in backends:
        c.fail("base", f"no such back-end; there are {'; '.join(backends)}")
    figure = c.text("figure", "rate")
    if figure != "rate" and not re.fullmatch(r"[a-z_]+_us\.(min|mean|max|p[0-9.]+)", figure):
        c.fail("figure", "say rate, or a time of sluice-bench --json, as latency_us.p50")
    return Recipe(str(path), c.text("title", Path(path).stem), c.text("unit", "a second"), c.number("rounds", 5, 1, 1000),
                  c.number("time", 1, 1, 3600), pins, image, base, [] if figure == "rate" else figure.split(".", 1),
                  backends, workloads)
