"""What setup.py asks about CUDA: nvcc's architectures, and the objects that a build has left."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "cuda"


def gencodes(nvcc: list[str]) -> dict[str, str]:
    """Architecture, or those of one PTX -> nvcc's option for it."""
    if not (archs := os.environ.get("TRPO_FAST_CUDA_ARCHS")):
        known = subprocess.run([*nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        archs = "80,90;100+PTX" if "compute_100" in known.split() else "80,90+PTX"
    names = {a: re.fullmatch(r"(\d+[af]?)(,\d+)*(\+PTX)?", a) for a in archs.split(";")}
    if bad := [arch for arch, match in names.items() if not match]:
        raise ValueError(f"TRPO_FAST_CUDA_ARCHS: expected such as 80,90;100+PTX, got {bad[0]!r}")
    code = {a: a.replace(",", ",sm_").replace("+PTX", f",compute_{m[1]}") for a, m in names.items()}
    return {a: f"-gencode=arch=compute_{m[1]},code=[sm_{code[a]}]" for a, m in names.items()}


def cuda_sources() -> str:
    """A digest of all that the objects of the CUDA half are made from."""
    folders = [ROOT / "csrc" / name for name in ("cuda", "shared")]
    files = sorted(path for folder in folders for path in folder.rglob("*.*"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def keep_cuda(cuda: SimpleNamespace, build: Path) -> None:
    """Puts the objects, and the runtime that they need, where the next Python finds them."""
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    shutil.copy2(cuda.link[0], KEPT)
    for path in build.glob("cuda/**/*.cu.o"):
        shutil.copy2(path, KEPT / "-".join(path.relative_to(build).parts))
    about = {"sources": cuda_sources(), "archs": list(cuda.gencode)}
    (KEPT / "about.json").write_text(json.dumps(about))


def kept_cuda(build: Path) -> SimpleNamespace:
    """The CUDA half as an earlier build left it; no nvcc is asked."""
    try:
        about = json.loads((KEPT / "about.json").read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"no build with nvcc has left its objects in {KEPT}") from None
    if about["sources"] != cuda_sources():
        raise OSError(f"the objects in {KEPT} are those of other sources")
    objects = [os.path.relpath(path, build) for path in sorted(KEPT.glob("*.o"))]
    runtime = os.path.relpath(KEPT / "libcudart_static.a", build)
    link = [*objects, runtime, "-ldl", "-lrt"]
    return SimpleNamespace(nvcc=None, link=link, gencode=dict.fromkeys(about["archs"]))
