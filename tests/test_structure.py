"""The shape of the code itself: imports point one way, and everything is short."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest

import ganctl
from ganctl import runtime
from ganctl.settings import sections

PACKAGE = Path(ganctl.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 300  # of a file
MOST_BODY = 60  # lines of a function from its first statement on, without docstring

# A room may import only from those above it; rooms in one line do not know each other. What starts
# programs, `__init__` and `__main__`, may know everything.
ROOMS = [
    {"errors", "progress", "busy", "main_memory", "webpage"},
    {"cache"},
    {"runtime", "processes"},
    {"meeting"},
    {"distributed"},
    {"settings"},
    {"models"},
    {"store"},
    {"data", "sampling"},
    {"scores"},
    {"training", "insight"},
    {"export"},
    {"report"},
    {"session"},
    {"resuming"},
    {"cli"},
]
ENTRANCES = ("__init__", "__main__")


def module_of(path: Path) -> str:
    """For example store.runs; a package is called like its folder, and ganctl itself __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported_names(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, at its top or inside functions, or in type checks."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """The modules of ganctl that a file imports, or imports something from."""
    found = set()
    for name in imported_names(path):
        parts = name.split(".")
        if parts[0] == "ganctl":
            places = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            found.add(next((place for place in places if place in MODULES), "__init__"))
    return found


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' <- '.join(error.args[1])}") from error


def test_rooms_import_from_earlier_ones_only() -> None:
    level = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    for module, path in MODULES.items():
        room = module.split(".")[0]
        if room in ENTRANCES:
            continue
        for imported in {name.split(".")[0] for name in imported_modules(path)} - {room}:
            if imported not in ENTRANCES:  # they say the version
                assert level[imported] < level[room], f"{module} imports {imported}"


@pytest.mark.parametrize("room", sorted({module.split(".")[0] for module in MODULES}))
def test_there_is_no_circle_of_imports_in_a_room(room: str) -> None:
    inside = {m: path for m, path in MODULES.items() if m.split(".")[0] == room}
    assert_no_circle({m: imported_modules(path) & inside.keys() for m, path in inside.items()})


def test_a_circle_would_be_found() -> None:
    with pytest.raises(AssertionError, match="a circle of imports"):
        assert_no_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_functions_and_files_stay_short() -> None:
    for module, path in MODULES.items():
        text = path.read_text()
        assert text.count("\n") <= MOST_LINES, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert length <= MOST_BODY, f"{module}: {node.name} has {length} lines"


def test_public_functions_and_classes_have_docstrings() -> None:
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}: {node.name}"


def test_no_library_unpickles_for_us() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert not called.startswith(("pickle.", "torch.load", "yaml.load")), module


def test_the_precisions_that_settings_and_runtime_spell_out_are_the_same() -> None:
    assert get_args(sections.Precision) == get_args(runtime.Precision)


def test_the_map_of_the_code_has_a_line_for_each_module() -> None:
    text = (PACKAGE.parent / "docs" / "code.md").read_text()
    tree = text.split("# The code")[1].split("```")[1]
    named = re.findall(r"^    (\w+\.py) {2,}\S", tree, re.MULTILINE)
    rooms = [folder for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()]
    modules = [path.name for room in rooms if room.name != "cli" for path in room.glob("[a-z]*.py")]
    assert sorted(named) == sorted(modules)
    assert all(f"  {room.name}/ " in tree or f"  {room.name}/\n" in tree for room in rooms)


def test_the_readme_can_be_read_in_an_hour() -> None:
    assert (PACKAGE.parent / "README.md").read_text().count("\n") <= 150
