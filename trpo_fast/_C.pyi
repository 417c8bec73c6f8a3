"""The native half as Python sees it: what csrc/bindings defines, entry by entry.

Addresses are those of contiguous memory on the operator's device, 0 where there is nothing; the
caller keeps the tensors alive. ``problem`` is the fields of a ``NativeProblem``, K right-hand sides
lie as K rows [K, P], ``table`` is [K, 4] float64: x'Ax, |r|, iterations, p'Ap of the first one.
``gradient`` and ``evaluate`` give KL, its largest over rows, surrogate, entropy. To act with
``theta`` 0 is to ask for values alone.
"""

from collections.abc import Sequence
from typing import Any, TypedDict, final

families: list[str]  # the kernels of this build: cpu, act, critic, cuda

# ---- build and machine: csrc/bindings/module.cpp

class _BuildInfo(TypedDict):
    version: str
    compiler: str
    cuda_archs: str  # such as "80,90;100+PTX"; empty: built without the CUDA half

class _Device(TypedDict):
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_memory_optin: int  # bytes that one block may ask for
    memory: int

class _Probe(TypedDict):
    problem: str  # why there are no devices; empty where there are
    driver_version: int
    runtime_version: int
    devices: list[_Device]

def build_info() -> _BuildInfo: ...
def detected_isa() -> str: ...
def selected_isa() -> str: ...
def cuda_probe() -> _Probe: ...

# ---- a problem as both cores read it: csrc/bindings/problem.cpp

@final
class NetShape:
    def __init__(
        self, *, widths: Sequence[int], activation: int, head: int, nvec: Sequence[int]
    ) -> None: ...

@final
class FvpParams:
    """A net at one theta on its rows: what both cores read."""

    def __init__(
        self,
        *,
        net: NetShape,
        theta: int,
        parameters: int,
        count: int,
        obs: int,
        weights: int,
        mask: int,
        actions: int,
        choices: int,
        advantages: int,
        log_probs: int,
        group_size: int,
        old_params: int,
        fvp_rows: int,
        fvp_count: int,
        chunk_rows: int,
        damping: float,
        kl_scale: float,
    ) -> None: ...

# ---- products, solves and updates on the CPU: csrc/bindings/cpu.cpp

@final
class CpuOperator:
    def __init__(self, *, params: FvpParams, reverse_kl: bool, bf16_planes: int) -> None: ...
    def forward(self, *, params: int, threads: int) -> None: ...
    def jvp(self, *, v: int, tangent: int, threads: int) -> None: ...
    def metric(self, *, tangent: int, out: int, threads: int) -> None: ...
    def vjp(self, *, delta: int, out: int, threads: int) -> None: ...
    def factors(self, *, stride: int, out: int, threads: int) -> None: ...
    def precondition(self, *, stride: int, r: int, z: int, threads: int) -> None: ...
    def fvp(self, *, v: int, columns: int, out: int, threads: int) -> None: ...
    def solve(
        self, *, g: int, columns: int, iterations: int, tol: float, gain_tol: float, factor_stride:
        int, x: int, table: int, threads: int
    ) -> None: ...  # fmt: skip
    def gradient(self, *, g: int, threads: int) -> tuple[float, float, float, float]: ...
    def evaluate(self, *, theta: int, threads: int) -> tuple[float, float, float, float]: ...
    def bad_values(self, *, threads: int) -> bool: ...
    def update(
        self, *, theta: int, stats: int, iterations: int, tol: float, gain_tol: float,
        factor_stride: int, max_kl: float, ratio: float, steps: int, search: bool, limit_max: bool,
        learning_rate: float, threads: int
    ) -> None: ...  # fmt: skip
    @property
    def scratch_bytes(self) -> int: ...

# ---- acting on the CPU: csrc/bindings/act.cpp

@final
class ActRows:
    """The tensors of the rows that an actor reads and writes."""

    def __init__(
        self, *, count: int, obs: int, seen: int = 0, mask: int = 0, noise: int = 0, actions: int =
        0, log_probs: int = 0, values: int
    ) -> None: ...  # fmt: skip

@final
class Act:
    """Policy and critic that act on the CPU."""

    def __init__(self, *, policy: NetShape, critic: NetShape) -> None: ...
    def normalise(self, *, shift: int, scale: int, clip: float) -> None: ...
    def act(
        self,
        *,
        theta: int,
        critic_theta: int,
        value_shift: int,
        value_scale: int,
        rows: ActRows,
        threads: int,
    ) -> None: ...

# ---- the critic's fit on the CPU: csrc/bindings/critic.cpp

def critic_loss(
    *,
    net: NetShape,
    theta: int,
    gradient: int,
    obs: int,
    targets: int,
    weights: int,
    count: int,
    threads: int,
) -> float: ...
def critic_adam(
    *, net: NetShape, theta: int, first: int, second: int, order: int, epochs: int, minibatch: int,
    steps: int, learning_rate: float, beta1: float, beta2: float, eps: float, obs: int, targets:
    int, weights: int, count: int, threads: int
) -> float: ...  # fmt: skip

# ---- products, solves and updates on a CUDA device: csrc/bindings/cuda.cpp

class _Limits(TypedDict):
    multiprocessors: int
    shared_bytes: int
    arch: int  # such as 90

class CudaFault(RuntimeError): ...  # the device has ended all work of this process

def cuda_connect(path: str) -> None: ...
def cuda_limits(device: int) -> _Limits: ...
def cuda_plan(
    *, net: NetShape, rows: int, fvp_count: int, chunk_rows: int, group_size: int, precision: str,
    grid: int, multiprocessors: int, shared_bytes: int, arch: int
) -> CudaPlan: ...  # fmt: skip
def cuda_predicted(*, net: NetShape, plan: CudaPlan) -> dict[str, float]: ...
def cuda_room(*, net: NetShape, plan: CudaPlan, device: int) -> int: ...

@final
class CudaPlan:
    """How the kernels would run one shape on one device; made by ``cuda_plan``."""

    def describe(self) -> dict[str, Any]: ...
    @property
    def grid(self) -> int: ...
    @property
    def refusal(self) -> str | None: ...

@final
class CudaOperator:
    """A policy at one theta on its rows, on one device."""

    def __init__(
        self,
        *,
        params: FvpParams,
        plan: CudaPlan,
        reverse_kl: bool,
        device: int,
        atomics: bool,
    ) -> None: ...
    def fvp(self, *, v: int, out: int, columns: int, scratch: int, stream: int) -> None: ...
    def solve(
        self, *, g: int, x: int, stats: int, columns: int, iterations: int, tol: float,
        gain_tol: float, factor_stride: int, scratch: int, stream: int
    ) -> None: ...  # fmt: skip
    def gradient(self, *, g: int, stats: int, scratch: int, stream: int) -> None: ...
    def evaluate(self, *, theta: int, stats: int, scratch: int, stream: int) -> None: ...
    def update(
        self, *, theta: int, stats: int, iterations: int, tol: float, gain_tol: float,
        factor_stride: int, max_kl: float, ratio: float, steps: int, search: bool, limit_max: bool,
        learning_rate: float, scratch: int, stream: int
    ) -> None: ...  # fmt: skip
    def scratch_bytes(self, *, factor_stride: int) -> int: ...

# ---- acting, advantages and the critic's fit on a CUDA device: csrc/bindings/cuda_rollout.cpp and
# ---- csrc/bindings/cuda_critic.cpp

@final
class CudaAct:
    """Policy and critic that act on one device."""

    def __init__(self, *, policy: NetShape, critic: NetShape, device: int) -> None: ...
    def normalise(self, *, shift: int, scale: int, clip: float) -> None: ...
    def act(
        self,
        *,
        theta: int,
        critic_theta: int,
        value_shift: int,
        value_scale: int,
        rows: ActRows,
        stream: int,
    ) -> None: ...

def cuda_gae(
    *, rewards: int, values: int, following: int, done: int, advantages: int, steps: int, envs: int,
    gamma: float, decay: float, device: int, stream: int
) -> None: ...  # fmt: skip
def cuda_critic_refusal(*, net: NetShape, device: int) -> str | None: ...

@final
class CudaCritic:
    """A critic on its rows, on one device."""

    def __init__(
        self, *, net: NetShape, device: int, theta: int, obs: int, targets: int, weights: int,
        count: int, state: int, grid: int
    ) -> None: ...  # fmt: skip
    def scratch_bytes(self, *, pass_rows: int) -> int: ...
    def adam(
        self, *, order: int, epochs: int, minibatch: int, taken: int, learning_rate: float, beta1:
        float, beta2: float, eps: float, first: int, second: int, scratch: int, stream: int
    ) -> None: ...  # fmt: skip
    def gradient(self, *, out: int, scratch: int, stream: int) -> None: ...
    def search(self, *, direction: int, backtracks: int, scratch: int, stream: int) -> None: ...
