"""The command line: dispatch, doctor, and the sentences about what is missing."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import trpo_fast
from trpo_fast._base import extension
from trpo_fast.backends import cuda_machine
from trpo_fast.backends.support import Support
from trpo_fast.cli import doctor
from trpo_fast.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]


def fake_native(**overrides: object) -> SimpleNamespace:
    """A native half with every family and one H200."""
    h200 = {"name": "H200", "capability": (9, 0), "multiprocessors": 132}
    h200 |= {"shared_memory_optin": 232448, "memory": 141 * 2**30}
    probe = {"problem": "", "driver_version": 13010, "runtime_version": 13000, "devices": [h200]}
    info = {"version": trpo_fast.__version__, "compiler": "gcc 12", "cuda_archs": "80;90;100+PTX"}
    functions = {
        "__file__": "_C.so",
        "families": ["cpu", "cuda"],
        "build_info": lambda: info,
        "cuda_probe": lambda: probe,
        "selected_isa": lambda: "avx2",
        "detected_isa": lambda: "avx512",
    }
    return SimpleNamespace(**{**functions, **overrides})


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch):
    """Call it with what importing trpo_fast._C should give or raise."""

    def install(result: object) -> None:
        def import_module(name: str) -> object:
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(extension, "importlib", SimpleNamespace(import_module=import_module))
        extension._load.cache_clear()
        extension.warn_of_pure_python.cache_clear()
        cuda_machine._machine_support.cache_clear()

    monkeypatch.delenv("TRPO_FAST_EMULATE", raising=False)
    monkeypatch.setattr(cuda_machine, "_torch_support", lambda: Support())
    yield install
    monkeypatch.undo()
    extension._load.cache_clear()
    cuda_machine._machine_support.cache_clear()


ABSENT = {
    "no file": (ModuleNotFoundError("No module named 'trpo_fast._C'"), "built without native code"),
    "broken": (ImportError("libstdc++.so.6: too old"), "does not load: libstdc++.so.6: too old"),
    "stale": (
        fake_native(build_info=lambda: {"version": "0.0", "cuda_archs": ""}),
        "native code is of version 0.0, the package of",
    ),
}


@pytest.mark.parametrize("result, sentence", ABSENT.values(), ids=ABSENT)
def test_absent_native_half_is_explained(native, result: object, sentence: str, capsys) -> None:
    native(result)
    assert extension.module() is None
    status = trpo_fast.backends()
    assert status["reference"] == status["autograd"] == "ok"
    assert sentence in status["cpu"] and sentence in status["cuda"]
    assert cli.main(["doctor"]) == 0
    assert sentence in capsys.readouterr().out
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        _ = extension.native


def test_a_pure_python_install_says_so(native, capsys) -> None:
    native(ABSENT["no file"][0])
    assert cli.main(["doctor"]) == 0
    assert "pure Python: everything works, on PyTorch's operators alone" in capsys.readouterr().out
    assert "install g++ or clang++ and reinstall" in trpo_fast.backends()["cpu"]
    assert cli.main(["doctor", "--case", "C1"]) == 1
    assert "--case needs the native code: built without" in capsys.readouterr().err


def test_auto_without_native_code_warns_once(native) -> None:
    policy = trpo_fast.MLPPolicy(3, trpo_fast.Gaussian(1), (4,))
    obs = torch.randn(8, 3)
    with warnings.catch_warnings(record=True) as none:
        warnings.simplefilter("always")
        trpo_fast.FisherOperator(policy, obs)
        native(ABSENT["no file"][0])
        trpo_fast.FisherOperator(policy, obs, backend="reference")
        trpo_fast.FisherOperator(policy.double(), obs.double())  # no kernel was for this one
    assert not none
    policy.float()
    with pytest.warns(
        RuntimeWarning, match=r"slower than the C\+\+ kernels: built without"
    ) as said:
        trpo_fast.FisherOperator(policy, obs)
        trpo_fast.FisherOperator(policy, obs)
    assert len(said) == 1


def test_the_gpus_that_doctor_names_are_those_with_results(capsys) -> None:
    results = ROOT / "benchmarks" / "results"
    if not results.exists():
        pytest.skip("recorded results need a checkout")
    files = results.glob("*/*.json")
    read = (json.loads(file.read_text()).get("environment", {}) for file in files)
    measured = any("gpu" in environment for environment in read)
    assert bool(doctor.GPUS) is measured
    if extension.module() is not None:
        cli.main(["doctor"])
        assert ("have not run on a GPU yet" in capsys.readouterr().out) is not measured


def refuse_isa() -> str:
    raise ValueError("TRPO_FAST_ISA: expected base, got 'x'")


def probe(problem: str, *capabilities: tuple[int, int]) -> dict:
    devices = [{"name": "old", "capability": capability} for capability in capabilities]
    return {"problem": problem, "driver_version": 0, "runtime_version": 13000, "devices": devices}


REASONS = {
    "cpu kernels": ({"families": ["cuda"]}, "cpu", "contains no CPU kernels"),
    "isa": ({"selected_isa": refuse_isa}, "cpu", "expected base, got 'x'"),
    "cuda kernels": ({"families": ["cpu"]}, "cuda", "contains no CUDA kernels"),
    "no nvcc": (
        {"build_info": lambda: {"version": trpo_fast.__version__, "cuda_archs": ""}},
        "cuda",
        "built without CUDA",
    ),
    "no device": ({"cuda_probe": lambda: probe("no CUDA device: x")}, "cuda", "no CUDA device: x"),
    "old device": ({"cuda_probe": lambda: probe("", (7, 0))}, "cuda", "none of: old (sm_70)"),
}


@pytest.mark.parametrize("overrides, backend, sentence", REASONS.values(), ids=REASONS)
def test_backend_says_why_not(native, overrides: dict, backend: str, sentence: str) -> None:
    native(fake_native(**overrides))
    assert sentence in trpo_fast.backends()[backend]
    assert trpo_fast.backends()["reference"] == "ok"


def test_complete_build_serves_everything(native, capsys) -> None:
    native(fake_native())
    assert set(trpo_fast.backends().values()) == {"ok"}
    cli.main(["doctor"])
    text = capsys.readouterr().out
    assert "H200 (sm_90), 132 multiprocessors, 227 KiB shared memory a block, 141 GiB" in text
    assert "up to CUDA 13.1; the build's runtime is 13.0" in text


def test_torch_without_cuda_is_named(native, monkeypatch: pytest.MonkeyPatch) -> None:
    native(fake_native())
    monkeypatch.undo()
    monkeypatch.setattr("torch.version.cuda", None)
    assert "is built without CUDA; install a CUDA build" in cuda_machine._torch_support().why_not


def test_emulation_needs_no_device_but_its_library(
    native, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys
) -> None:
    native(fake_native(cuda_probe=lambda: probe("no CUDA device: x")))
    library = tmp_path / "libtrpo_fast_emulated.so"
    monkeypatch.setenv("TRPO_FAST_EMULATE", str(library))
    assert f"kernels from {library}, which does not exist" in trpo_fast.backends()["cuda"]
    library.touch()
    assert trpo_fast.backends()["cuda"] == "ok"
    cli.main(["doctor"])
    assert "emulated on the host" in capsys.readouterr().out


SERVES = [
    ("80;90;100+PTX", (8, 0), True),
    ("80;90;100+PTX", (8, 6), True),
    ("80;90;100+PTX", (7, 5), False),
    ("80;90;100+PTX", (12, 0), True),
    ("86", (8, 0), False),
    ("90", (10, 0), False),
    ("90a", (9, 0), True),
    ("90a+PTX", (10, 0), False),
    ("100f", (10, 3), True),
    ("100f+PTX", (12, 0), False),
    ("", (9, 0), False),
]


@pytest.mark.parametrize("archs, capability, expected", SERVES)
def test_which_devices_a_build_serves(archs: str, capability, expected: bool) -> None:
    assert cuda_machine.serves(archs, capability) is expected


def test_doctor_on_this_machine(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRPO_FAST_ISA", "base")
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == trpo_fast.__version__
    assert report["backends"]["reference"] == "ok"
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    column = lines[0].index(trpo_fast.__version__)
    assert len(lines) > 10
    assert all(line[column - 1] == " " != line[column] for line in lines)
    if not report["native"]["problem"]:
        assert report["native"]["selected_isa"] == "base"
        assert any("base, forced by TRPO_FAST_ISA" in line for line in lines)
        kernels = next(line for line in lines if line.startswith("kernels "))
        assert ("cuda" in kernels) == bool(report["native"]["cuda_archs"])


@pytest.mark.parametrize(
    ("cores", "words"),
    [(1, "no worker by default"), (2, "1 worker beside"), (5, "4 workers beside this process")],
)
def test_doctor_counts_workers(cores: int, words: str) -> None:
    line = doctor._workers_line(cores, "fork")
    assert words in line and (cores == 1 or line.endswith("by fork"))


def test_unknown_isa_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    native = extension.module()
    if native is None:
        pytest.skip(extension.why_missing())
    monkeypatch.setenv("TRPO_FAST_ISA", "neon")
    with pytest.raises(ValueError, match=r"expected base, avx2, avx512 or amx.*got 'neon'"):
        native.selected_isa()


def test_usage_lists_every_command(capsys) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0
    assert trpo_fast.__version__ in capsys.readouterr().out


def test_unknown_command_is_named(capsys) -> None:
    assert cli.main(["fly"]) == 2
    assert "expected one of the commands train, eval" in capsys.readouterr().err


MISSING = {
    "extra": ("gymnasium", "train", 'needs gymnasium: pip install "trpo-fast[train]"'),
    "package": ("numpy", None, "needs numpy: pip install numpy"),
    "ours": ("trpo_fast.nothing", "train", "trpo_fast.nothing is not part of this installation"),
}


@pytest.mark.parametrize("module, extra, sentence", MISSING.values(), ids=MISSING)
def test_command_says_what_to_install(monkeypatch, capsys, module, extra, sentence) -> None:
    def import_module(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setitem(cli.COMMANDS, "train", cli.Command("somewhere:main", "", extra))
    monkeypatch.setattr(importlib, "import_module", import_module)
    assert cli.main(["train", "CartPole-v1"]) == 1
    assert sentence in capsys.readouterr().err


def test_arguments_and_status_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    module = SimpleNamespace(main=lambda argv: seen.extend(argv) or 7)
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    assert cli.main(["bench", "cg", "--json"]) == 7
    assert seen == ["cg", "--json"]


def test_doctor_knows_every_extra() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = set(project["optional-dependencies"]) - {"test", "dev"}
    assert set(doctor.EXTRAS) == declared
