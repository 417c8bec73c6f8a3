"""Where NVIDIA's disassemblers are: on the path, or in their packages from PyPI."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path


def find_tool(name: str) -> str:
    if found := shutil.which(name):
        return found
    site = Path(sysconfig.get_path("purelib"), "nvidia")
    for path in sorted(site.glob(f"*/bin/{name}")):
        return str(path)
    raise FileNotFoundError(
        f"no {name} found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    )
