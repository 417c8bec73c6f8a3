"""Objects of the CUDA half, which know no Python, kept in build/cuda for TRPO_FAST_CUDA=prebuilt."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "cuda"


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
