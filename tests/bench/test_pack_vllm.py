"""What is packed for a host without network: the right wheels, slimmed, in parts that join again. Nothing is downloaded."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from sparring.bench import pack_vllm
from sparring.bench.pack_vllm import PackError, collect, cut, download, host_packages, needs, parts, slim, write

METADATA = """\
Metadata-Version: 2.1
Name: {name}
Version: 1
{requires}
"""


def make_wheel(folder: Path, name: str, *requires: str, **files: bytes) -> Path:
    path = folder / f"{name}-1-py3-none-any.whl"
    lines = "\n".join(f"Requires-Dist: {text}" for text in requires)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.dist-info/METADATA", METADATA.format(name=name, requires=lines))
        for inside, data in files.items():
            archive.writestr(inside, data)
    return path


def test_a_hosts_packages_are_read_from_either_listing() -> None:
    assert host_packages("Package Version\nPyYAML  6.0\ntyping_extensions==4.1\nflax @ file:///x\n\n") >= {
        "pyyaml",
        "typing-extensions",
        "flax",
    }


def test_requirements_are_those_of_the_host_not_of_this_machine(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path,
        "vllm",
        "numpy>=2",
        "old; python_version < '3.12'",
        "new; python_version >= '3.12'",
        "windows; sys_platform == 'win32'",
        "sound; extra == 'audio'",
    )
    assert needs(wheel) == ["numpy>=2", "new"]
    assert needs(wheel, {"audio"}) == ["numpy>=2", "new", "sound"]


def test_what_the_host_has_and_what_must_be_its_own_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requires = {"vllm": ("torch==2.11", "numpy", "depth"), "depth": ("vllm", "numpy", "deeper"), "deeper": (), "msgspec": ()}
    asked: list[str] = []

    def fake(requirement: str, into: Path) -> Path:
        asked.append(requirement)
        name = requirement.partition("==")[0]
        return make_wheel(tmp_path, name, *requires[name])

    monkeypatch.setattr(pack_vllm, "download", fake)
    wheels = list(collect(["vllm==0.26.0", "msgspec"], {"numpy", "msgspec"}, tmp_path))
    assert asked == ["vllm==0.26.0", "msgspec", "depth", "deeper"]
    assert wheels[0].name.startswith("vllm-")


def test_needless_kernels_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    files = {"vllm/_flashmla_C.so": b"x", "vllm/_C.so": b"y", "vllm/third_party/deep_gemm/a.py": b"z"}
    slim(make_wheel(tmp_path, "vllm", **files), tmp_path / "vllm.zip")
    with zipfile.ZipFile(tmp_path / "vllm.zip") as archive:
        assert archive.namelist() == ["vllm-1.dist-info/METADATA", "vllm/_C.so"]
        assert archive.read("vllm/_C.so") == b"y"


def test_parts_are_small_enough_and_join_again(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    pieces = [*cut("vllm.zip", data, 1000), ("small.whl", b"a" * 300), ("large.whl", b"b" * 700), ("huge.whl", b"c" * 1500)]
    write(parts(pieces, 1000), tmp_path / "out")
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in (tmp_path / "out").iterdir()]
    assert sum(size > 1000 for size in sizes) == 1  # the huge one, alone
    assert sum(sizes) == len(data) + 2500
    assert len(sizes) == 13
    joined = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").rglob("vllm.zip.*"), key=lambda path: path.name))
    assert joined == data


def test_a_wheel_that_is_not_to_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PackError, match=r"no wheel of nothing==1 for the host \(pip brought nothing\): name it in SKIP"):
        download("nothing==1", tmp_path)
