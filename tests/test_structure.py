"""The shape of the code itself: imports point one way, and the package is what the README says."""

import ast
from pathlib import Path

import ganctl

PACKAGE = Path(ganctl.__file__).parent

# A room may import only from those before it; rooms in one line do not know each other.
ROOMS = [
    {"errors", "cache"},
    {"settings"},
    {"runtime"},
    {"models"},
    {"store"},
    {"data", "sampling"},
    {"training", "insight"},
    {"session"},
    {"cli"},
]


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The parts of ganctl that a file imports, at its top or inside functions."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ganctl"):
            if node.module == "ganctl":
                parts |= {alias.name for alias in node.names}
            else:
                parts.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            parts |= {name[1] for name in names if name[0] == "ganctl" and len(name) > 1}
    return parts


def test_imports_point_one_way() -> None:
    level = {part: number for number, rooms in enumerate(ROOMS) for part in rooms}
    for path in PACKAGE.rglob("*.py"):
        part = part_of(path)
        if part in ("__init__", "__main__"):
            continue
        for imported in imported_parts(path) - {part}:
            assert level[imported] < level[part], f"{path.name} imports {imported}"


def test_functions_and_files_stay_short() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 300, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and path.parent.name != "cli":
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 55, f"{path.name}: {node.name} has {length} lines"


def test_public_functions_and_classes_have_docstrings() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_no_library_unpickles_for_us() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert not called.startswith(("pickle.", "torch.load", "yaml.load")), path.name
