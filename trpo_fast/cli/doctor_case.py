"""What runs on a benchmark case: the plan of the CUDA kernels in words, and who serves in their
place where they refuse.
"""

from __future__ import annotations

from typing import Any

import torch

from .._base import extension
from ..backends.registry import registry
from ..backends.wide import machine
from ..backends.wide import predicted as wide
from ..bench.cases import CASES, Case
from ..core.batch import Batch
from ..core.problem import Problem
from ..policy.flat import flat_params
from ..policy.heads import Categorical, Gaussian
from ..policy.net import MLPPolicy
from ..policy.spec import NetSpec

PRODUCTS = 10  # of a predicted solve
H200 = {"multiprocessors": 132, "shared_bytes": 227 * 1024, "arch": 90}


def case_report(name: str, precision: str) -> dict[str, Any]:
    """The case, the device it is planned for (here, or else an H200), the plan, and for a policy on
    a CUDA device and on the CPU the backend that ``auto`` takes (None: no backend does).
    """
    from ..backends.cuda import fused_precision
    from ..backends.cuda_plan import plan, solve_us

    case, limits = CASES[name], _limits()
    nvec = (case.actions,) if case.head == "categorical" else ()
    spec = NetSpec((case.obs_dim, *case.hidden, case.actions), "tanh", case.head, nvec)
    fused = fused_precision(precision)
    planned = plan(spec, case.full_rows, limits or H200, precision=precision if fused else "fp32")
    if not fused:
        planned |= {"precision": precision, "refusal": fused.why_not}
        resident = None
    else:
        resident = solve_us(spec, case.full_rows, H200, precision=precision)
    served = _served(case, precision)
    return {
        "case": name,
        "net": "-".join(map(str, spec.widths)),
        "head": case.head,
        "rows": case.full_rows,
        "device": limits or H200,
        "device_is_here": limits is not None,
        **planned,
        "predicted_us": {"cuda": resident} | _elsewhere(spec, case.full_rows, precision),
        "wide_net": machine.is_wide_net(spec),
        "auto_on_cuda": _on_cuda(spec, precision, planned["refusal"]) or served["elsewhere"],
        "auto_on_cpu": served["cpu"] or served["elsewhere"],
    }


def _elsewhere(spec: NetSpec, rows: int, precision: str) -> dict[str, float | None]:
    """Predicted microseconds of a solve by the kernels for wide nets, those of other nets too
    where a precision leaves the choice, and by the reference in a CUDA graph; None for one that
    does not serve the precision.
    """
    choice = machine.is_wide_net(spec) or precision in ("fp32", "fp16x3")
    served = choice and machine.net_support(spec, precision)
    return {
        "wide": wide.solve_us(spec, rows, precision) if served else None,
        "reference": wide.reference_us(spec, rows) if precision == "fp32" else None,
    }


def _on_cuda(spec: NetSpec, precision: str, refusal: str | None) -> str | None:
    """Which kernels take a net there: the fused ones, or those for wide nets."""
    if refusal is None:
        return "cuda"
    wide = max(spec.widths[1:]) > machine.RESIDENT_WIDTH
    return "wide" if wide and machine.net_support(spec, precision) else None


def _limits() -> dict[str, int] | None:
    """The limits of the first CUDA device that a plan depends on; None without one."""
    native = extension.module()
    devices = native.cuda_probe()["devices"] if native else []
    if not devices:
        return None
    major, minor = devices[0]["capability"]
    return {
        "multiprocessors": devices[0]["multiprocessors"],
        "shared_bytes": devices[0]["shared_memory_optin"],
        "arch": 10 * major + minor,
    }


def _served(case: Case, precision: str) -> dict[str, str | None]:
    """The backend that serves the case on a CPU, and the one that serves it on any device."""
    head = Categorical(case.actions) if case.head == "categorical" else Gaussian(case.actions)
    policy = MLPPolicy(case.obs_dim, head, case.hidden)
    problem = Problem(
        policy, flat_params(policy), Batch(torch.zeros(1, case.obs_dim)), 0.1, precision=precision
    )
    others = {name: backend for name, backend in registry().items() if name != "cuda"}
    serving = [name for name, backend in others.items() if backend.support(problem)]
    anywhere = [name for name in serving if name != "cpu"]
    return {"cpu": serving[0] if serving else None, "elsewhere": anywhere[0] if anywhere else None}


def render_case(report: dict[str, Any]) -> str:
    """The report as aligned sentences."""
    lines = [
        (
            f"case {report['case']}",
            f"net {report['net']}, {report['head']} actions, {report['rows']:,} rows",
        ),
        ("planned for", _device(report)),
    ]
    if report["refusal"]:
        lines.append(("CUDA kernels", f"do not serve this: {report['refusal']}"))
    else:
        lines += _plan_lines(report)
    lines += _predicted_lines(report)
    lines.append(("on a CUDA device", _auto_on_cuda(report)))
    lines.append(("on the CPU", _auto(report["auto_on_cpu"], report["precision"])))
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in lines)


def _device(report: dict[str, Any]) -> str:
    limits, here = report["device"], report["device_is_here"]
    return (
        f"{'the first CUDA device' if here else 'an H200, as no CUDA device is here'} "
        f"(sm_{limits['arch']}, {limits['multiprocessors']} multiprocessors, "
        f"{limits['shared_bytes'] // 1024} KiB shared memory a block)"
    )


_AUTO = {
    "cuda": "backend='auto' takes the CUDA kernels",
    "wide": "backend='auto' takes the Triton kernels for wide nets, where triton is installed",
    "cpu": "backend='auto' takes the C++ kernels, backend 'cpu'",
    "reference": "backend='auto' takes 'reference', which is written in PyTorch",
    "autograd": "backend='auto' takes 'autograd', products by torch's differentiation",
}


def _auto(backend: str | None, precision: str) -> str:
    if backend is None:
        return f"nothing serves precision {precision!r}; 'fp32' is served by every backend"
    return _AUTO[backend]


_BY = {
    "cuda": "the CUDA kernels",
    "wide": "the Triton kernels for wide nets",
    "reference": "'reference' in a CUDA graph",
}


def _predicted_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for each that serves the case, or could."""
    times = {name: us for name, us in report["predicted_us"].items() if us}
    if not times:
        return []
    hypothetical = {} if report["wide_net"] else {"wide": ", not used for nets this narrow"}
    head = "predicted time", f"for a solve of {PRODUCTS} products on an H200, not measured:"
    said = (f"about {_time(us)} by {_BY[n]}{hypothetical.get(n, '')}" for n, us in times.items())
    return [head, *(("", text) for text in said)]


def _time(us: float) -> str:
    return f"{us:.0f} us" if us < 1000 else f"{us / 1000:.1f} ms"


def _auto_on_cuda(report: dict[str, Any]) -> str:
    """Who is taken, and why."""
    taken, predicted = report["auto_on_cuda"], report["predicted_us"]
    said = _auto(taken, report["precision"])
    if taken not in _BY:
        return said
    why = {
        "cuda": "which keep the rows of such a net on chip",
        "wide": "as the CUDA kernels do not serve it",
        "reference": "as no kernels serve it",
    }
    said = f"{said}, {why[taken]}"
    times = {name: us for name, us in predicted.items() if us}
    fastest = min(times, key=lambda name: times[name]) if times else taken
    if fastest != taken and taken in times:
        said += f", though {_BY[fastest]} are predicted to be faster"
    return said


def _plan_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    kept = {
        "resident": "stay in shared memory for the whole update",
        "streamed": "go to device memory where they do not fit in shared memory",
    }
    if plan["path"] == "streamed" and not plan["cached"]:
        kept["streamed"] = "are computed again where they do not fit in shared memory"
    candidates = plan["search_batch"]
    search = "one candidate at a time" if candidates == 1 else f"{candidates} candidates at a time"
    residual = "shared memory" if plan["residual_on_chip"] else "device memory"
    return [
        (
            "CUDA kernels",
            f"serve this in {plan['precision']}: one launch of {plan['grid']} blocks of "
            f"{plan['threads']} threads",
        ),
        (
            "rows",
            f"{plan['tiles']:,} tiles of {plan['tile_rows']}, of which a block keeps "
            f"{plan['resident_tiles']} in shared memory",
        ),
        ("activations", kept[plan["path"]]),
        (
            "memory",
            f"{plan['shared_bytes'] / 1024:.0f} KiB shared memory a block, "
            f"{plan['scratch_bytes'] / 2**20:.1f} MiB device memory; CG's residual in {residual}",
        ),
        ("line search", search),
    ]
