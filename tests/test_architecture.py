"""Imports run one way, heavy ones are late, and MPI is in one place (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from small_sets import random_frames, random_mask, write_set

import bnl_mpi

PACKAGE = Path(bnl_mpi.__file__).parent
HEAVY = {"astropy", "glymur", "imagecodecs", "gemmi", "scipy", "matplotlib", "PIL", "hdf5plugin", "mpi4py", "fabio"}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(p): p for p in PACKAGE.rglob("*.py")}


def imports_of(module: str, *, top_level: bool) -> set[str]:
    """Full names of what a module imports: at its top level alone, or anywhere."""
    tree = ast.parse(SOURCES[module].read_text())
    return imported_in(tree.body if top_level else list(ast.walk(tree)), module)


def imported_in(nodes: Sequence[ast.AST], module: str) -> set[str]:
    """Full names of what those of the nodes of `module` that are imports import."""
    found: set[str] = set()
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                root = package.split(".")
                root = root[: len(root) - node.level + 1]
                base = ".".join([*root, base]).rstrip(".")
            found.update(f"{base}.{a.name}" if f"{base}.{a.name}" in SOURCES else base for a in node.names)
    return found


def test_no_import_runs_in_a_circle() -> None:
    graph = {m: {i for i in imports_of(m, top_level=True) if i in SOURCES and i != m} for m in SOURCES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above, module])
        if module not in done:
            for other in sorted(graph[module]):
                # A package's own parts may use it; its __init__ names them.
                if not module.startswith(other + "."):
                    visit(other, (*above, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_heavy_packages_are_imported_late() -> None:
    for module in SOURCES:
        heavy = {i.split(".")[0] for i in imports_of(module, top_level=True)} & HEAVY
        assert not heavy, f"{module} imports {heavy} at its top level"


def test_one_module_knows_mpi() -> None:
    users = {m for m in SOURCES if any(i.split(".")[0] == "mpi4py" for i in imports_of(m, top_level=False))}
    assert users == {"bnl_mpi.run.world"}


def test_every_room_is_on_the_architecture_page() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    for module in SOURCES:
        top = module.removeprefix("bnl_mpi").lstrip(".").split(".")[0]
        if top and not top.startswith("_"):
            assert f"`{top}`" in page or f"`{top}/`" in page, f"{module} is not on docs/architecture.md"


def test_the_hot_path_does_without_astropy_and_glymur() -> None:
    code = (
        "import sys, bnl_mpi.run.driver, bnl_mpi.tasks.reduction, bnl_mpi.output.master, bnl_mpi.output.nexus\n"
        "import bnl_mpi.codecs.hcompress\n"
        "found = {'astropy', 'glymur', 'imagecodecs', 'mpi4py', 'gemmi'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plain_job_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """A short one takes hardly longer than its imports."""
    master = write_set(tmp_path, random_frames(4, (40, 50)), mask=random_mask((40, 50)))
    code = (
        "import sys, bnl_mpi.cli\n"
        "assert bnl_mpi.cli.main(sys.argv[1:]) == 0\n"
        "found = {'numpy.ma', 'astropy', 'imagecodecs', 'mpi4py', 'sqlite3'} & set(sys.modules)\n"
        "found |= {'hdf5plugin', 'importlib.metadata', 'multiprocessing', 'secrets', 'socket', 'subprocess'} "
        "& set(sys.modules)\n"
        "rooms = ('input.reflections', 'input.cbf.series', 'spots', 'check', 'tasks.guard', 'tasks.keeping',\n"
        "    'hdf5.memory', 'hdf5.layout', 'output.again', 'run.shares', 'run.watch')\n"
        "found |= {name for name in sys.modules if name.startswith(tuple('bnl_mpi.' + room for room in rooms))}\n"
        "assert not found, found"
    )
    words = ["-i", str(master), "-b", "2", "-s", "2", "-c", "bslz4", "-H", "16", "-o", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", code, *words], check=True)


def test_importing_h5py_starts_no_program() -> None:
    code = (
        "import platform, sys\n"
        "sys.addaudithook(lambda event, args: print(event, args) if event == 'subprocess.Popen' else None)\n"
        "import bnl_mpi.hdf5\n"
        "assert 'h5py' in sys.modules and 'processor' not in vars(platform.uname())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b""


def test_no_test_imports_another() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        named = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        named += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        assert not [n for n in named if n.startswith("test_")], f"{path.name}: share helpers by a module of their own"


# ---- rooms ----------------------------------------------------------------------------------------------

ROOMS = {
    "_version": "",
    "errors": "",
    "plan": "",
    "pixels": "errors",
    "spots": "pixels",
    "hdf5": "errors",
    "codecs": "errors pixels",
    "options": "errors plan pixels codecs",
    "input": "errors plan pixels hdf5",
    "output.record": "errors plan hdf5",
    "job": "_version errors plan pixels hdf5 codecs options input output.record",
    "output": "_version errors plan pixels hdf5 codecs options input output.record job",
    "run": "errors plan hdf5 options output.record job output",
    "tasks": "_version errors plan pixels spots hdf5 codecs options input output.record job output run",
    "check": "errors hdf5 input output.record output",
    "simulate": "errors hdf5",
    "expand": "run tasks",
    "__init__": "_version options run tasks",
    "arguments": "_version errors pixels codecs options",
    "estimate": "errors plan pixels spots hdf5 codecs options input output.record job output run tasks arguments",
    "quality": "errors hdf5 input run estimate",
    "verify": "_version errors plan pixels hdf5 codecs options input output.record job output run tasks arguments "
    "estimate",
    "report.png": "",
    "archive": "errors plan pixels hdf5 options input output run tasks check arguments verify report.png",
    "report": "report.png errors plan spots options input output.record job tasks arguments estimate",
    "commands": "_version errors hdf5 options output run tasks check simulate arguments estimate quality verify "
    "archive report",
    "cli": "errors arguments output run tasks",
    "__main__": "cli",
}
"""Who may import whom, at whatever place in a file; a room may only use those above it.  A module with a line of its
own is a room too."""

BY_NAME = {("arguments", "commands")}
"""`arguments.COMMANDS` names the commands' modules, and `cli` imports the one that is asked for."""


def room_of(module: str) -> str:
    name = module.removeprefix("bnl_mpi").lstrip(".")
    return name if name in ROOMS else name.split(".")[0] or "__init__"


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def rooms_used_by(module: str) -> set[str]:
    """Rooms whose modules are imported anywhere in `module`, or named in a text, as for `import_module`."""
    tree = ast.parse(SOURCES[module].read_text())
    for_types = {id(inner) for node in ast.walk(tree) if is_for_types(node) for inner in ast.walk(node)}
    nodes = [node for node in ast.walk(tree) if id(node) not in for_types]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found = {name for name in texts if name in SOURCES and "." in name}
    return {room_of(name) for name in found | imported_in(nodes, module) if name.startswith("bnl_mpi")}


def test_a_room_uses_only_what_the_table_lets_it() -> None:
    names = list(ROOMS)
    for room, allowed in ROOMS.items():
        assert set(allowed.split()) <= set(names[: names.index(room)]), f"{room}: the table itself goes round"
    for module in sorted(SOURCES):
        room = room_of(module)
        assert room in ROOMS, f"{module}: a new room needs a line in ROOMS"
        used = {other for other in rooms_used_by(module) - {room} if (room, other) not in BY_NAME}
        wrong = used - set(ROOMS[room].split())
        assert not wrong, f"{module} uses {', '.join(sorted(wrong))}, which the table doesn't let {room} do"


def test_the_table_grants_nothing_that_nobody_uses() -> None:
    for room, allowed in ROOMS.items():
        used = {other for module in SOURCES if room_of(module) == room for other in rooms_used_by(module)}
        assert set(allowed.split()) <= used, f"{room}: {sorted(set(allowed.split()) - used)} isn't used"


# ---- sizes ----------------------------------------------------------------------------------------------

LONGEST_FUNCTION, LONGEST_MODULE, LARGEST_ROOT = 40, 350, 10


def lengths() -> dict[str, int]:
    """Lines of every function and module that is too long."""
    found = {}
    for module, path in SOURCES.items():
        text = path.read_text()
        if (n := len(text.splitlines())) > LONGEST_MODULE:
            found[module] = n
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                n = (node.end_lineno or 0) - node.lineno + 1
                if n > LONGEST_FUNCTION:
                    found[f"{module}.{node.name}"] = n
    return found


def test_functions_and_modules_are_short() -> None:
    found = lengths()
    assert not found, f"longer than {LONGEST_FUNCTION} (functions) or {LONGEST_MODULE} lines (modules): split {found}"


def test_the_root_is_small() -> None:
    modules = [path.name for path in PACKAGE.glob("*.py")]
    assert len(modules) <= LARGEST_ROOT, f"{len(modules)} modules in the root: {sorted(modules)}"
