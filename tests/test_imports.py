"""The house's order: which folder may import which, one name for each module, and a public face that loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparring

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "kernels": set(),
    "scenarios": set(),
    "rollout": {"scenarios"},
    "learner": {"kernels", "rollout", "scenarios"},
    "engine": {"kernels", "scenarios", "rollout", "learner"},
    "bench": {"kernels", "scenarios", "rollout", "learner", "engine"},
}
FOLDERS = tuple(MAY_IMPORT)
AGAINST_THE_FLOW = {("engine/cli/bench.py", "bench")}
"""The command line opens every room, the measuring one too."""


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, at any depth of it, with the line. A relative import keeps its dots."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names = module == "sparring" or module.strip(".") == ""
            yield from ((node.lineno, f"{module}.{alias.name}" if names else module) for alias in node.names)


def room(module: str) -> str | None:
    """The folder that an absolute import of ours leads to."""
    first, _, rest = module.partition(".")
    folder = rest.partition(".")[0]
    return folder if first == "sparring" and folder in FOLDERS else None


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_follow_the_flow_of_data(folder: str) -> None:
    allowed = MAY_IMPORT[folder] | {folder}
    against = [
        f"{path.relative_to(ROOT)}:{line}: imports {module}"
        for path in files(folder)
        for line, module in imports(path)
        if (to := room(module)) and to not in allowed and (path.relative_to(ROOT).as_posix(), to) not in AGAINST_THE_FLOW
    ]
    assert against == []


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_a_module_has_one_name(folder: str) -> None:
    """`import kernels` would find our folder, or the package of that name that transformers probes for, as the path has it."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {module}: say sparring.FOLDER.MODULE"
        for path in files(folder)
        for line, module in imports(path)
        if module.startswith(".") or module.partition(".")[0] in (*FOLDERS, "tests", "src")
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_house_does_not_use_its_own_front_door(folder: str) -> None:
    """Inside, a name comes from the module that defines it; only the version has no other home."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {module}"
        for path in files(folder)
        for line, module in imports(path)
        if module.partition(".")[0] == "sparring" and room(module) is None and module != "sparring.__version__"
    ]
    assert wrong == []


def test_scenarios_are_pure_python() -> None:
    """No model, no network, no clock: the same turns give the same verdict anywhere. Only the store and the contests'
    topics, data of the package, touch the disk."""
    models = {"torch", "transformers", "peft", "openai"}
    world = {"asyncio", "datetime", "os", "pathlib", "socket", "sqlite3", "subprocess", "threading", "time"}
    disk = {"scenarios/database.py", "scenarios/store.py", "scenarios/contests/topics.py"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {module}"
        for path in files("scenarios")
        for line, module in imports(path)
        if module.partition(".")[0] in (models if path.relative_to(ROOT).as_posix() in disk else models | world)
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_folders_are_linked_and_have_no_init(folder: str) -> None:
    link = ROOT / "src" / "sparring" / folder
    assert link.is_symlink()
    assert link.readlink().as_posix() == f"../../{folder}"
    assert [path for path in files(folder) if path.name == "__init__.py"] == []


def test_the_import_reader_sees_every_form(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "import sparring.engine.cli as cli, os\n"
        "from sparring import engine, __version__\n"
        "from . import sibling\n"
        "def late():\n"
        "    from sparring.bench import report\n"
        "    from ..kernels import op\n"
    )
    assert list(imports(source)) == [
        (1, "sparring.engine.cli"),
        (1, "os"),
        (2, "sparring.engine"),
        (2, "sparring.__version__"),
        (3, "..sibling"),
        (5, "sparring.bench"),
        (6, "..kernels"),
    ]
    assert room("sparring.engine.cli") == room("sparring.engine") == "engine"
    assert room("sparring.__version__") is room("engine.cli") is None


@pytest.mark.parametrize("name", sparring.__all__)
def test_every_public_name_comes_from_the_module_that_defines_it(name: str) -> None:
    value = getattr(sparring, name)
    assert value.__name__ == name
    assert room(value.__module__) in FOLDERS
    assert name in dir(sparring)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Scenaro'"):
        sparring.Scenaro  # noqa: B018


def test_importing_sparring_and_the_referee_loads_no_torch() -> None:
    """Scoring stored transcripts must not cost seconds of imports."""
    code = "import sys, sparring; sparring.GameState; print([name in sys.modules for name in ('torch', 'numpy')])"
    environment = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[False, False]"
