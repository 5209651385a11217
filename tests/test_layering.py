"""The rooms of wtool and who may import whom, read from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import wtool

PACKAGE = Path(wtool.__file__).parent
FRAMEWORKS = {"torch", "tensorflow", "keras", "tf_keras", "safetensors", "h5py", "transformers"}
FOUNDATION = {"errors", "dtypes", "sources"}
READING = FOUNDATION | {"extents", "checkpoint"}
JUDGING = READING | {"layers", "kernels", "report"}
# room: the rooms that it may import, itself aside. A room is a module or folder directly in wtool/.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "stopping": set(),
    # Only inside __str__: print(report) shows its table.
    "report": {"render"},
    "dtypes": {"errors"},
    "sources": {"errors", "stopping"},
    "extents": {"errors", "dtypes", "sources"},
    "checkpoint": {"errors", "dtypes", "sources", "extents"},
    "encodings": {"errors", "sources"},
    "kernels": {"errors", "dtypes"},
    "dialects": READING | {"encodings"},
    "formats": READING | {"encodings", "dialects"},
    "writers": READING | {"encodings", "dialects", "kernels"},
    "layers": {"checkpoint", "extents", "kernels", "dtypes"},
    # What a Keras configuration states is read by what reads Keras files.
    "conversion": JUDGING | {"encodings", "dialects"},
    # A manifest is JSON from anywhere: it is parsed by the strict reader.
    "manifests": JUDGING | {"encodings"},
    "checks": JUDGING | {"encodings", "dialects"},
    "bridges": {"manifests", "checkpoint", "dtypes", "errors"},
    "render": {"report", "errors"},
}
# These three see everything below them; `__init__` is the library's face, `__main__` the command's.
FACES = {"commands", "cli", "__init__", "__main__"}
# Formats that wrap files of any other format, and so ask the table of formats to open them.
WRAPPERS = {"sharded", "model_directory", "keras_shards"}
# No formats: they say what an unclaimed path is.
EXPLANATIONS = {"unknown", "unknown_directory"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> list[tuple[str, ast.stmt, bool]]:
    """(imported module, statement, whether it runs when the file is imported) of each import.

    `from wtool import x` counts as `wtool.x`. What stands under `if TYPE_CHECKING` never runs.
    """
    found = []
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text("utf8")), True)]
    while pending:
        node, runs = pending.pop()
        if isinstance(node, ast.Import):
            found += [(alias.name, node, runs) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            base = node.module or ""
            for alias in node.names:
                deeper = PACKAGE.parent / base.replace(".", "/") / f"{alias.name}.py"
                is_module = base == "wtool" or deeper.exists()
                found.append((f"{base}.{alias.name}" if is_module else base, node, runs))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += [(child, False) for child in node.body]
            pending += [(child, runs) for child in node.orelse]
            continue
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        pending += [(child, runs and not inner) for child in ast.iter_child_nodes(node)]
    return found


def place(path: Path, statement: ast.AST) -> str:
    return f"{path.relative_to(PACKAGE.parent)}:{getattr(statement, 'lineno', 0)}"


def test_every_room_is_in_the_table():
    rooms = {room(module_name(path)) for path in sources()}
    assert rooms <= set(MAY_IMPORT) | FACES


def test_no_room_imports_another_than_the_table_says():
    wrong = []
    for path in sources():
        own = room(module_name(path))
        if own in FACES:
            continue
        for target, statement, _ in imports(path):
            if target.split(".")[0] != "wtool" or room(target) in {own, *MAY_IMPORT[own]}:
                continue
            wrong.append(f"{place(path, statement)}: {own} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_command_line_imports_commands_errors_and_stopping_only():
    wrong = [
        f"{place(path, statement)}: {target}"
        for path in (PACKAGE / "cli.py",)
        for target, statement, _ in imports(path)
        if target.startswith("wtool")
        and room(target) not in {"commands", "errors", "stopping", "__init__", "__version__"}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_format_imports_another_format():
    wrong = []
    for path in (PACKAGE / "formats").glob("*.py"):
        if path.stem == "__init__" or path.stem in WRAPPERS | EXPLANATIONS:
            continue
        for target, statement, _ in imports(path):
            parts = target.split(".")
            if parts[:2] == ["wtool", "formats"] and len(parts) > 2 and parts[2] != path.stem:
                wrong.append(f"{place(path, statement)}: {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(FRAMEWORKS))
def test_no_framework_is_imported_with_a_module(library):
    wrong = [
        f"{place(path, statement)}: {target}"
        for path in sources()
        for target, statement, runs in imports(path)
        if runs and target.split(".")[0] == library
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", ["torch", "tensorflow", "keras", "tf_keras", "safetensors"])
def test_frameworks_are_imported_in_bridges_only(library):
    wrong = [
        f"{place(path, statement)}: {target}"
        for path in sources()
        if room(module_name(path)) != "bridges"
        for target, statement, _ in imports(path)
        if target.split(".")[0] == library
    ]
    assert not wrong, "\n".join(wrong)


def test_numpy_is_imported_with_a_module_in_kernels_only():
    heavy = {"numpy", "ml_dtypes", "google_crc32c"}
    wrong = [
        f"{place(path, statement)}: {target}"
        for path in sources()
        if room(module_name(path)) != "kernels"
        for target, statement, runs in imports(path)
        if runs and target.split(".")[0] in heavy
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("numba", ["kernels/"]),
        ("click", ["cli.py", "commands/"]),
        ("tabulate", ["render/table.py"]),
        ("pickle", []),
        ("marshal", []),
        ("shelve", []),
        ("runpy", []),
    ],
)
def test_a_library_stays_in_its_home(library, homes):
    wrong = [
        place(path, statement)
        for path in sources()
        if not path.relative_to(PACKAGE).as_posix().startswith(tuple(homes))
        for target, statement, _ in imports(path)
        if target.split(".")[0] in {library, f"_{library}", f"c{library}"}
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_evaluated_or_executed():
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            if isinstance(function, ast.Name) and function.id in {"eval", "exec", "__import__"}:
                wrong.append(f"{place(path, node)}: {function.id}")
            # `compile` by itself is also the name of re.compile, a method.
            if isinstance(function, ast.Name) and function.id == "compile":
                wrong.append(f"{place(path, node)}: compile")
    assert not wrong, "\n".join(wrong)


def test_modules_are_imported_by_name_only_from_wtools_own_tables():
    """`import_module` gets a text that starts with `wtool.`: no file can name what is imported."""
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                name = ast.unparse(node.args[0]).lstrip("f'\"")
                if not name.startswith("wtool."):
                    wrong.append(f"{place(path, node)}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_prints_or_exits():
    wrong = []
    for path in sources():
        if room(module_name(path)) in {"cli", "commands", "__main__"}:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "print",
                "sys.exit",
                "exit",
            }:
                wrong.append(f"{place(path, node)}: {ast.unparse(node.func)}")
    assert not wrong, "\n".join(wrong)


def test_broad_excepts_are_in_the_command_line_only():
    """Elsewhere one may clean up after anything, but must raise it again."""
    wrong = []
    for path in sources():
        if path.name == "cli.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else "BaseException"
            broad = {"Exception", "BaseException"} & set(caught.strip("()").split(", "))
            last = node.body[-1]
            if broad and not (isinstance(last, ast.Raise) and last.exc is None):
                wrong.append(f"{place(path, node)}: except {caught}")
    assert not wrong, "\n".join(wrong)
