"""Imports run one way, heavy ones are late, and MPI is in one place (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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
    found: set[str] = set()
    nodes = tree.body if top_level else list(ast.walk(tree))
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


def test_no_test_imports_another() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        named = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        named += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        assert not [n for n in named if n.startswith("test_")], f"{path.name}: share helpers by a module of their own"
