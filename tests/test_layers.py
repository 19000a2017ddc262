"""The rooms and their layers: imports run down only, and no two rooms import each other in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = "dreampose_cli"

# Each room may import those on the layers below it, and those next to it as long as no circle comes of it.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("workflows",),
    ("inference", "training", "evaluation", "subjects"),
    ("networks", "sampling", "poses", "bases", "mannequins"),
    ("media", "cache"),
    ("errors", "names", "reporting", "version", "device", "atomic", "locks", "prefetch", "regular"),
)
ROOMS = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> dict[str, int]:
    """The modules of the package that a module imports, also within functions and for types, with the line."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            home = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (home, node.module) if part)
            targets = [
                f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in known else origin for alias in node.names
            ]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == PACKAGE:
                found.setdefault(target, node.lineno)
    return found


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.fixture(scope="module")
def edges() -> dict[tuple[str, str], str]:
    """Which room imports which other one, with an example."""
    known = modules()
    found: dict[tuple[str, str], str] = {}
    for name, path in known.items():
        if name == PACKAGE:
            continue  # the public face, which only names what workflows offer
        for target, line in imported(name, path, known).items():
            if room_of(name) != room_of(target):
                found.setdefault((room_of(name), room_of(target)), f"{path.relative_to(SOURCE)}:{line}")
    return found


def test_every_room_has_its_layer():
    rooms = {room_of(name) for name in modules()} - {""}
    assert rooms == set(ROOMS), "LAYERS names every room there is, and no other"


def test_no_room_imports_one_above(edges):
    upward = [
        f"{where} imports {target or 'the package itself'}"
        for (room, target), where in edges.items()
        if ROOMS.get(target, -1) < ROOMS[room]
    ]
    assert not upward, upward


def test_no_circle_between_rooms(edges):
    graph: dict[str, set[str]] = {}
    for room, target in edges:
        graph.setdefault(room, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        rooms = circle.args[1]
        steps = [edges.get((a, b), edges.get((b, a), "")) for a, b in zip(rooms, rooms[1:], strict=False)]
        pytest.fail(f"{' - '.join(rooms)}: {steps}")
