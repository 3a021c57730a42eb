"""No setting is dead: each is read somewhere, and reading something else of that name is not enough.

The program's text is searched for attributes of what is annotated as a section of the configuration
(`config: Config`, then `config.train.steps`), also under another name (`every = config.train`).
What the search cannot follow counts as unread, so that it errs towards an alarm.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import ganctl
from ganctl.settings import config
from ganctl.settings.sections import Section

Types = dict[str, str]  # of names: the prefix of the section's settings, "train." for TrainConfig

PACKAGE = Path(ganctl.__file__).parent


def prefixes(section: type[Section], prefix: str = "") -> Types:
    """Sections by the names of their classes: {"Config": "", "DataConfig": "data.", ...}."""
    found = {section.__name__: prefix}
    for name, field in section.model_fields.items():
        for kind in get_args(field.annotation) or (field.annotation,):
            if isinstance(kind, type) and issubclass(kind, Section):
                found |= prefixes(kind, f"{prefix}{name}.")
    return found


CLASSES = {**prefixes(config.Config), "ModelConfig": "model."}


def annotated(annotation: ast.expr | None) -> str | None:
    """The prefix that an annotation stands for: of `Config`, `LossConfig | None`, ..."""
    match annotation:
        case ast.Name(id=name):
            return CLASSES.get(name)
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return annotated(left)
    return None


def declared(trees: list[ast.Module]) -> tuple[Types, Types]:
    """Attributes and functions whose type is a section wherever one of that name is declared."""
    attributes: dict[str, set[str | None]] = {}
    functions: dict[str, set[str | None]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                functions.setdefault(node.name, set()).add(annotated(node.returns))
            if isinstance(node, ast.ClassDef):
                for name, prefix in _attributes(node):
                    attributes.setdefault(name, set()).add(prefix)
    return _agreed(attributes), _agreed(functions)


def _attributes(node: ast.ClassDef) -> Iterator[tuple[str, str | None]]:
    """Fields of a dataclass, and what a method stores in `self` of its own arguments."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, annotated(statement.annotation)
        if isinstance(statement, ast.FunctionDef):
            arguments = {a.arg: annotated(a.annotation) for a in statement.args.args}
            for target, value in assignments(statement):
                if isinstance(target, ast.Attribute) and isinstance(value, ast.Name):
                    yield target.attr, arguments.get(value.id)


def _agreed(found: dict[str, set[str | None]]) -> Types:
    return {
        name: prefix
        for name, kinds in found.items()
        if len(kinds) == 1 and (prefix := min(kinds, key=str)) is not None
    }


def assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Targets and values of all assignments in `node`, in order; a, b = c, d is two."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.Assign):
            target, value = statement.targets[0], statement.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(target.elts, value.elts, strict=True)
            else:
                yield target, value


def settings_read(sources: list[str]) -> set[str]:
    """The dotted names of what is read of sections anywhere in these files."""
    trees = [ast.parse(source) for source in sources]
    attributes, functions = declared(trees)
    read: set[str] = set()

    def prefix_of(node: ast.expr, names: Types) -> str | None:
        match node:
            case ast.Name(id=name):
                return names.get(name)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                return functions.get(name)
            case ast.Attribute(value=value, attr=name):
                outer = prefix_of(value, names)
                if outer is None:
                    return attributes.get(name)
                return f"{outer}{name}." if f"{outer}{name}." in CLASSES.values() else None
        return None

    def visit(node: ast.AST, names: Types) -> None:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = {name: names[name] for name in names if name not in {a.arg for a in given}}
            names |= {a.arg: p for a in given if (p := annotated(a.annotation)) is not None}
            for target, value in assignments(node):
                if isinstance(target, ast.Name) and (p := prefix_of(value, names)) is not None:
                    names[target.id] = p
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            outer = prefix_of(node.value, names)
            if outer is not None:
                read.add(outer + node.attr)
        for child in ast.iter_child_nodes(node):
            visit(child, names)

    for tree in trees:
        visit(tree, {})
    return read


@pytest.fixture(scope="module")
def read() -> set[str]:
    """What the program reads; the validators in settings do not count."""
    paths = [
        path for path in PACKAGE.rglob("*.py") if path.name not in ("config.py", "sections.py")
    ]
    return settings_read([path.read_text() for path in paths])


def test_no_setting_is_dead(read: set[str]) -> None:
    assert [name for name in config.setting_names() if name not in read] == []


def test_a_setting_that_nobody_reads_would_be_found_whatever_its_name(read: set[str]) -> None:
    """Each setting's name in every section that has none so called, and a name of its own."""
    names = {name.rpartition(".")[2] for name in config.setting_names()} | {"planted"}
    planted = {prefix + name for prefix in CLASSES.values() for name in names}
    planted -= {*config.setting_names(), *(prefix[:-1] for prefix in CLASSES.values())}
    assert len(planted) > 200
    assert planted & read == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(config: Config): return config.train.steps", {"train.steps"}),
        ("def f(loss: LossConfig | None): loss.kind", {"loss.kind"}),
        ("def f(model: ModelConfig): g(model.attention.at)", {"model.attention.at"}),
        ("def f(config: Config):\n a, b = config.data, config.optim\n a.flip, b.g_lr", {"data.flip", "optim.g_lr"}),
        ("class A:\n def __init__(self, c: Config): self.c = c\n def f(self): self.c.data.crop", {"data.crop"}),
        ("class A:\n config: Config\ndef f(a: A): a.config.train.seed", {"train.seed"}),
        ("def settled() -> Config: ...\ndef f(): settled().train.seed", {"train.seed"}),
        ("def f(config: Config): config.train.steps = 3", set()),
        ("def f(stream: Batches): stream.seed, stream.flip, stream.train.steps", set()),
        ("def f(config: Config): return lambda config: config.train.steps", set()),
        ("class A:\n data: DataConfig\nclass B:\n data: Source\ndef f(b: B): b.data.source", set()),
    ],
)  # fmt: skip
def test_what_counts_as_reading_a_setting(source: str, expected: set[str]) -> None:
    found = settings_read([source])
    assert {name for name in found if name in config.setting_names()} == expected
