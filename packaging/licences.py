"""The licences of the libraries that are linked into the program, with the notices that they ask for."""

from pathlib import Path

import project

# How the files begin that hold them.
NAMES = ("license", "licence", "copying", "copyright", "notice", "unlicense")


def linked():
    """The packages that are in the program: what it depends on when it runs, directly or through others."""
    found = project.metadata()
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    seen, todo = set(), [found["resolve"]["root"]]
    while todo:
        for dependency in nodes[todo.pop()]["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                todo.append(dependency["pkg"])
    packages = {package["id"]: package for package in found["packages"]}
    return sorted((packages[id] for id in seen), key=lambda package: (package["name"], package["version"]))


def files(package):
    folder = Path(package["manifest_path"]).parent
    matches = (path for path in folder.iterdir() if path.name.lower().startswith(NAMES))
    found = sorted(path for path in matches if path.is_file())
    named = package.get("license_file")
    if named and folder / named not in found:
        found.append(folder / named)
    return found


def text():
    """One text: a list of all, then each licence text once, with the packages that it comes with."""
    by_text, lines = {}, []
    for package in linked():
        name = f"{package['name']} {package['version']}"
        found = files(package)
        where = package.get("repository") or f"https://crates.io/crates/{package['name']}"
        note = "" if found else f"; by {', '.join(package['authors']) or 'its authors'}; no text comes with it"
        lines.append(f"{name}: {package['license'] or 'see below'} ({where}){note}")
        for path in found:
            by_text.setdefault(path.read_text(errors="replace").strip(), []).append(name)
    parts = ["ipcluster contains these libraries:\n\n" + "\n".join(lines)]
    for words, names in by_text.items():
        parts.append(f"{', '.join(dict.fromkeys(names))}:\n\n{words}")
    return ("\n\n" + "-" * 79 + "\n\n").join(parts) + "\n"
