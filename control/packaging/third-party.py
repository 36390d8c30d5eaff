"""Prints the licences of every crate that is part of the binaries: python3 control/packaging/third-party.py

Whoever hands binaries on hands these texts on with them.
"""

import json
import pathlib
import subprocess
import sys

host = next(l.split()[1] for l in subprocess.check_output(["rustc", "-vV"], text=True).splitlines() if l.startswith("host"))
metadata = json.loads(
    subprocess.check_output(["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={host}"])
)
packages = {p["id"]: p for p in metadata["packages"]}
nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
ours = {p["name"]: i for i, p in packages.items() if p["source"] is None}

# What is linked: not what only tests or build scripts need.
linked, open_ = set(), [ours[name] for name in ("roomring-node", "roomring-router", "roomctl")]
while open_:
    package = open_.pop()
    if package in linked:
        continue
    linked.add(package)
    for dependency in nodes[package]["deps"]:
        macro = any("proc-macro" in t["kind"] for t in packages[dependency["pkg"]]["targets"])
        if not macro and any(kind["kind"] is None for kind in dependency["dep_kinds"]):
            open_.append(dependency["pkg"])

without, seen = [], {}
for package in sorted((packages[i] for i in linked if packages[i]["source"]), key=lambda p: (p["name"], p["version"])):
    root = pathlib.Path(package["manifest_path"]).parent
    names = ("licen", "copying", "notice", "unlicense")
    # Also of what a crate has in it, such as a library in C.
    files = [f for depth in ("*", "*/*", "*/*/*", "*/*/*/*") for f in sorted(root.glob(depth)) if f.name.lower().startswith(names)]
    files = [f for f in files if f.is_file() and f.suffix not in (".rs", ".py", ".sh")]
    print(f"{'=' * 80}\n{package['name']} {package['version']}, {package['license'] or 'see below'}")
    print(f"{package['repository'] or 'https://crates.io/crates/' + package['name']}")
    if package["authors"]:
        print(", ".join(package["authors"]))
    if not files:
        without.append(package["name"])
    for file in files:
        text = file.read_text(errors="replace").strip()
        where = f"{package['name']} {package['version']}: {file.relative_to(root)}"
        first = seen.setdefault(" ".join(text.split()), where)
        print(f"{'-' * 80}\n{text if first == where else f'{file.name}: word for word as in {first}'}")
    print()
print(f"{len(linked)} crates, of which {len(without)} come without a text: {' '.join(without)}", file=sys.stderr)
