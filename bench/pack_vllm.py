"""Packs vLLM and what it needs into parts for a GPU host that has no network: copied there, joined, imported.

The host is taken to have Python 3.12, torch 2.11 for CUDA 13, torchvision, transformers, peft and numba, and a Hopper GPU
(sm_90): vLLM 0.26.0 is the newest release built against torch 2.11. Kernels that FlashAttention 3 makes needless there are left
out of its wheel. Owns the choice of wheels and the cutting; where the parts go, and how, is the user's business.

    pip list --format=freeze > host-packages.txt                                  # on the host
    python -m sparring.bench.pack_vllm --have host-packages.txt --out parts       # where there is a network
    cat vllm.zip.* > vllm.zip && python -m zipfile -e vllm.zip site               # on the host, all parts in one folder
    python -m pip install --no-index --no-deps --no-compile --target site *.whl
    PYTHONPATH=site:src VLLM_USE_FLASHINFER_SAMPLER=0 make gpu

The packing was tried, what comes of it on a host was not: where an import fails there, DROP and SKIP are what to change.
"""

from __future__ import annotations

import argparse
import email
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sparring.scenarios.errors import SparringError

VLLM = "vllm==0.26.0"
ALSO = ("bitsandbytes", "liger-kernel", "msgspec")
DROP = (
    "vllm/third_party/deep_gemm",
    "vllm/third_party/fmha_sm100",
    "vllm/vllm-rs",
    "vllm/_flashmla",
    "vllm/_qutlass",
    "vllm/_rust",
    "vllm/vllm_flash_attn/_vllm_fa2_C",
)
"""Files of the wheel, by how their names begin, that a Hopper GPU does not need."""
SKIP = frozenset(
    {
        *("torch", "torchaudio", "torchvision", "torchcodec", "triton", "apache-tvm-ffi", "fastsafetensors", "flashinfer-cubin"),
        *("flashinfer-python", "humming-kernels", "nvidia-cudnn-frontend", "nvidia-cutlass-dsl", "opencv-python-headless"),
        *("pynvvideocodec", "quack-kernels", "tilelang", "tokenspeed-mla"),
    }
)
"""Requirements that text generation with FlashAttention 3 does without, or that must be the host's own."""
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (39, 36, 35, 34, 31, 28, 27, 24, 17, 12, 5)),
    *(f"manylinux{year}_x86_64" for year in (2014, 2010, 1)),
)
HOST = {
    **cast(dict[str, str], default_environment()),
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "platform_machine": "x86_64",
    "sys_platform": "linux",
}
"""What requirements are chosen for."""
PART_MIB = 56

Piece = tuple[str, bytes]
"""A file of a part: its name and contents."""


class PackError(SparringError):
    """Something cannot be packed."""


def host_packages(listing: str) -> set[str]:
    """Names in a listing of `pip list` or `pip freeze`, one a line."""
    names = (re.split(r"[\s=@<>~!]", line.strip(), maxsplit=1)[0] for line in listing.splitlines())
    return {canonicalize_name(name) for name in names if name}


def needs(wheel: Path, extras: Iterable[str] = ()) -> list[str]:
    """What a wheel requires on the host, markers resolved."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(name))
    found = []
    for text in message.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        marker, requirement.marker = requirement.marker, None
        if marker is None or any(marker.evaluate({**HOST, "extra": extra}) for extra in ("", *extras)):
            found.append(str(requirement))
    return found


def slim(wheel: Path, target: Path) -> None:
    """The wheel as a plain archive, without what `DROP` names."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for item in source.infolist():
            if not item.filename.startswith(DROP):
                out.writestr(item.filename, source.read(item.filename))


def cut(name: str, data: bytes, limit: int) -> list[Piece]:
    """Pieces of at most `limit` bytes whose names sort in order."""
    return [(f"{name}.{i:02d}", data[start : start + limit]) for i, start in enumerate(range(0, len(data), limit))]


def parts(pieces: Sequence[Piece], limit: int) -> list[list[Piece]]:
    """Pieces in parts of at most `limit` bytes, the largest first; one that is larger has a part of its own."""
    found: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece[1])):
        place = next((part for part in found if sum(len(data) for _, data in [*part, piece]) <= limit), None)
        if place is None:
            found.append([piece])
        else:
            place.append(piece)
    return found


def collect(roots: Sequence[str], have: set[str], into: Path) -> Iterator[Path]:
    """The wheels of the roots and of all that they need and the host lacks. Raises `PackError` where one is not to be had."""
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        requirement = Requirement(todo.pop(0))
        name = canonicalize_name(requirement.name)
        if name in seen or name in SKIP or (name in have and str(requirement) not in roots):
            continue
        seen.add(name)
        wheel = download(str(requirement), into)
        yield wheel
        todo += needs(wheel, requirement.extras)


def download(requirement: str, into: Path) -> Path:
    """The requirement's wheel for the host. Raises `PackError`."""
    before = set(into.iterdir())
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp"]
    command += [word for abi in ("cp312", "abi3", "none") for word in ("--abi", abi)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*command, "-d", str(into), requirement], capture_output=True, text=True, check=False)
    new = [path for path in into.iterdir() if path not in before]
    if done.returncode or not new:
        reason = done.stderr.strip().rpartition("\n")[2] or "pip brought nothing"
        raise PackError(f"no wheel of {requirement} for the host ({reason}): name it in SKIP if the host can do without")
    return new[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--have", type=Path, required=True, help="the host's packages, one a line, as pip lists them")
    parser.add_argument("--out", type=Path, default=Path("parts"), help="a new folder for the parts")
    parser.add_argument("--vllm", default=VLLM)
    parser.add_argument("--also", nargs="*", default=list(ALSO))
    parser.add_argument("--part-mib", type=int, default=PART_MIB)
    args = parser.parse_args()
    limit = args.part_mib << 20
    if args.out.exists():
        sys.exit(f"{args.out} is there already: name a new folder")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            wheels = list(collect([args.vllm, *args.also], host_packages(args.have.read_text()), Path(scratch)))
            slim(wheels[0], Path(scratch) / "vllm.zip")
            pieces = cut("vllm.zip", (Path(scratch) / "vllm.zip").read_bytes(), limit)
            pieces += [(wheel.name, wheel.read_bytes()) for wheel in wheels[1:]]
    except PackError as error:
        sys.exit(str(error))
    write(parts(pieces, limit), args.out)


def write(found: Sequence[Sequence[Piece]], out: Path) -> None:
    """A folder for each part: p0, p1, ..."""
    unfinished = out.with_name(out.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for number, part in enumerate(found):
        folder = unfinished / f"p{number}"
        folder.mkdir(parents=True)
        for name, data in part:
            (folder / name).write_bytes(data)
        print(f"{out / folder.name}  {sum(len(data) for _, data in part) / 2**20:6.1f} MiB  {len(part)} files")
    unfinished.rename(out)


if __name__ == "__main__":
    main()
