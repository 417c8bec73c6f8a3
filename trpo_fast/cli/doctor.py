"""`trpo-fast doctor`: what this installation can do on this machine, and why not the rest."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
from typing import Any

import torch

from .._base import extension
from .._version import __version__
from ..backends.cuda_machine import describe_device
from ..backends.registry import backends, registry
from ..bench.cases import CASE_NETS, CASES
from ..core.problem import BackendUnavailable
from ..envs.workers.pool import start_method, usable_cores
from .doctor_case import case_report, render_case

# GPUs on which the CUDA kernels have run and passed benchmarks/gpu_check.py.
GPUS: tuple[str, ...] = ()

# Extra -> the modules its packages provide; pyproject.toml has the packages.
EXTRAS = {
    "train": ("gymnasium", "tyro", "safetensors", "tqdm", "matplotlib", "tensorboard"),
    "mujoco": ("gymnasium", "mujoco"),
    "box2d": ("gymnasium", "Box2D"),
    "envpool": ("envpool",),
    "sb3": ("sb3_contrib", "stable_baselines3"),
    "rsl-rl": ("rsl_rl", "tensordict"),
    "skrl": ("skrl",),
    "tianshou": ("tianshou",),
    "peers": ("sb3_contrib", "stable_baselines3"),
    "jax": ("jax",),
    "export": ("onnx", "onnxscript"),
    "wandb": ("wandb",),
    "tune": ("optuna",),
    "playground": ("mujoco_playground", "brax", "jax"),
}


def _native_report() -> dict[str, Any]:
    native = extension.module()
    if native is None:
        return {"problem": extension.why_missing()}
    report = {"problem": "", "file": native.__file__, **native.build_info()}
    report["families"] = list(native.families)
    report["detected_isa"] = native.detected_isa()
    report["isa_override"] = os.environ.get("TRPO_FAST_ISA") or None
    try:
        report["selected_isa"] = native.selected_isa()
    except ValueError as error:
        report["selected_isa"] = None
        report["isa_problem"] = str(error)
    return report


def _cuda_report() -> dict[str, Any]:
    native = extension.module()
    probe = native.cuda_probe() if native else {"problem": extension.why_missing(), "devices": []}
    return {**probe, "emulated": extension.emulating()}


def _missing(modules: tuple[str, ...]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def collect() -> dict[str, Any]:
    """Everything doctor knows, as plain JSON values."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "threads": torch.get_num_threads(),
        },
        "workers": {"cores": usable_cores(), "start_method": start_method()},
        "native": _native_report(),
        "cuda": _cuda_report(),
        "backends": backends(),
        "precisions": _precisions(),
        "extras": {extra: {"missing": _missing(names)} for extra, names in EXTRAS.items()},
    }


def _precisions() -> dict[str, list[str]]:
    """What each backend that is available can compute in here."""
    return {
        name: [p for p in backend.precisions if backend.precision_support(p)]
        for name, backend in registry().items()
        if backend.machine_support()
    }


def _version_text(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _native_lines(native: dict[str, Any]) -> list[tuple[str, str]]:
    if native["problem"]:
        return [("native code", f"none: {native['problem']}")]
    archs = native["cuda_archs"]
    families = [name for name in native["families"] if archs or name != "cuda"]
    override = native["isa_override"]
    if native["selected_isa"] is None:
        isa = f"none: {native['isa_problem']}"
    elif override:
        isa = (
            f"{native['selected_isa']}, forced by TRPO_FAST_ISA; {native['detected_isa']} is there"
        )
    else:
        isa = f"{native['selected_isa']}, the best of this CPU; TRPO_FAST_ISA forces a lower one"
    return [
        ("native code", f"version {native['version']}, built by {native['compiler']}"),
        ("kernels", ", ".join(families) or "none in this build"),
        ("instruction set", isa),
        ("CUDA build", f"for compute capability {archs}" if archs else "none in this build"),
    ]


def _device_lines(cuda: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if cuda.get("runtime_version"):
        driver = cuda["driver_version"]
        text = f"up to CUDA {_version_text(driver)}" if driver else "not installed"
        runtime = _version_text(cuda["runtime_version"])
        lines.append(("CUDA driver", f"{text}; the build's runtime is {runtime}"))
    if cuda["emulated"]:
        lines.append(("CUDA device", "emulated on the host, as TRPO_FAST_EMULATE asks"))
    elif cuda["problem"]:
        lines.append(("CUDA device", f"none: {cuda['problem'].removeprefix('no CUDA device: ')}"))
    for index, device in enumerate(cuda["devices"]):
        text = (
            f"{describe_device(device)}, {device['multiprocessors']} multiprocessors, "
            f"{device['shared_memory_optin'] // 1024} KiB shared memory a block, "
            f"{device['memory'] / 2**30:.0f} GiB"
        )
        lines.append((f"CUDA device {index}", text))
    return lines


def _workers_line(cores: int, start_method: str) -> str:
    if cores < 2:
        return "one usable core: no worker by default, which is engine sync"
    workers = "1 worker" if cores == 2 else f"{cores - 1} workers"
    return f"{cores} usable cores: {workers} beside this process by default, by {start_method}"


def render(report: dict[str, Any]) -> str:
    """The report as aligned sentences."""
    cuda = report["torch"]["cuda"]
    build = f"with CUDA {cuda}" if cuda else "without CUDA"
    lines = [
        ("trpo_fast", f"{report['version']} on Python {report['python']}, {report['platform']}"),
        ("torch", f"{report['torch']['version']} {build}, {report['torch']['threads']} threads"),
        ("engine workers", _workers_line(**report["workers"])),
        *_native_lines(report["native"]),
        *_device_lines(report["cuda"]),
    ]
    if report["native"]["problem"]:
        lines.append(("so this is", "pure Python: everything works, on PyTorch's operators alone"))
    elif not GPUS:
        text = "have not run on a GPU yet; they are tested by emulating them on the host"
        lines.append(("CUDA kernels", text))
    for name, status in report["backends"].items():
        served = ", ".join(report["precisions"].get(name, []))
        text = f"available: {served}" if status == "ok" else f"not available: {status}"
        lines.append((f"backend {name}", text))
    for extra, state in report["extras"].items():
        missing = ", ".join(state["missing"])
        hint = f'without {missing}; pip install "trpo-fast[{extra}]"'
        lines.append((f"extra {extra}", hint if missing else "installed"))
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in lines)


def main(argv: list[str]) -> int:
    """Print the report, or what runs on a case; the exit status is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="trpo-fast doctor", description=__doc__)
    plan = (
        "what runs on this net of the benchmarks, and how, on the GPU here or else on an H200: "
        + CASE_NETS
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--case", choices=list(CASES), help=plan)
    parser.add_argument(
        "--precision",
        choices=registry()["cuda"].precisions,
        default="fp32",
        help="of the products of --case",
    )
    arguments = parser.parse_args(argv)
    if arguments.case is not None:
        if problem := extension.why_missing():
            raise BackendUnavailable(f"--case needs the native code: {problem}")
        found = case_report(arguments.case, arguments.precision)
        print(json.dumps(found, indent=2) if arguments.json else render_case(found))
        return 0
    report = collect()
    print(json.dumps(report, indent=2) if arguments.json else render(report))
    return 0
