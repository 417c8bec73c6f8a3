"""Builds trpo_fast._C: writes a ninja file from what lies under csrc and lets ninja run it.

csrc/bindings pybind11; csrc/cpu CPU core, isa_*.cpp per instruction set; csrc/cuda CUDA core.
Ninja keeps depfiles and command lines: a touched header or a changed flag rebuilds what it must.

TRPO_FAST_REQUIRE_NATIVE=1   fail where otherwise a pure Python package would be installed
TRPO_FAST_CUDA=0|1|auto      leave CUDA out, fail without it, or (default) build it when nvcc works
TRPO_FAST_CUDA=prebuilt      link the CUDA objects that any Python has built of these sources
TRPO_FAST_CUDA_ARCHS         such as 90a;90+PTX, a comma for two from one PTX; default 80,90;100+PTX
CXX, CXXFLAGS, LDFLAGS, NVCC, NVCCFLAGS and MAX_JOBS are honoured.
"""

import atexit
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"
TOOLKIT = runpy.run_path(str(ROOT / "csrc/cuda/toolkit.py"))
CXX_FLAGS = (  # never -ffast-math: NaN is honoured
    "-std=c++20 -O3 -fPIC -pthread -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra "
    "-fno-math-errno -fno-trapping-math -ffp-contract=fast"
).split()
NVCC_FLAGS = "-std=c++20 -O3 -t0 -Xcompiler -fPIC,-fvisibility=hidden".split()
LINK_FLAGS = "-shared -pthread -Wl,--exclude-libs,ALL -Wl,-O1".split()
ISA_FLAGS = {
    "isa_avx2": ["-march=x86-64-v3"],
    "isa_avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "isa_amx": ["-march=x86-64-v4", "-mamx-tile", "-mamx-bf16"],
}
RULES = (
    "rule compile\n  command = $run -MD -MF $out.d -c $in -o $out\n"
    "  depfile = $out.d\n  deps = gcc\n"
    "rule link\n  command = $run -o $out\n"
)


def env_words(name: str) -> list[str]:
    return shlex.split(os.environ.get(name, ""))


def find_program(variable: str, *names: str) -> list[str]:
    """The command in the environment variable if set, else the first of names on PATH."""
    for command in [env_words(variable)] if os.environ.get(variable) else [[n] for n in names]:
        if command and shutil.which(command[0]):
            return command
    raise FileNotFoundError(f"no {os.environ.get(variable) or ' or '.join(names)} (see {variable})")


def ask_nvcc() -> SimpleNamespace:
    """The toolkit as nvcc reports it: nvcc may be a wrapper script, its own path tells nothing."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = find_program("NVCC", "nvcc", f"{home}/bin/nvcc")
    dry = [*nvcc, "--dryrun", "-x", "cu", "-c", "/dev/null", "-o", "/dev/null"]
    said = subprocess.run(dry, capture_output=True, text=True, check=True).stderr
    value = dict(re.findall(r"^#\$ (\w+)= *(.*)$", said, re.MULTILINE))
    folders = [w[2:] for w in shlex.split(value.get("LIBRARIES", "")) if w.startswith("-L")]
    found = [p for folder in folders if (p := Path(folder, "libcudart_static.a")).exists()]
    if not found:
        raise FileNotFoundError(f"no libcudart_static.a in {', '.join(folders)}")
    return SimpleNamespace(
        nvcc=nvcc, link=[str(found[0]), "-ldl", "-lrt"], gencode=TOOLKIT["gencodes"](nvcc)
    )


class Build(build_ext):
    def build_extension(self, ext: Extension) -> None:
        """Without a compiler the package is pure Python, unless native code was asked for."""
        mode = os.environ.get("TRPO_FAST_CUDA") or "auto"
        if mode not in ("0", "1", "auto", "prebuilt"):
            raise ValueError(f"TRPO_FAST_CUDA: expected 0, 1, auto or prebuilt, got {mode!r}")
        required = mode in ("1", "prebuilt") or os.environ.get("TRPO_FAST_REQUIRE_NATIVE") == "1"
        target = Path(self.get_ext_fullpath(ext.name))
        target.unlink(missing_ok=True)  # a stale one must not be packaged
        try:
            self.build_native(mode)
        except (OSError, ImportError, subprocess.CalledProcessError) as error:
            if required or "build_ext" in sys.argv:  # who asks for it by name wants it
                raise SystemExit(f"trpo_fast: no native code: {error}") from None
            said = f"trpo_fast: installing pure Python: {error}; all of it works, but slower"
            return atexit.register(print, said, file=sys.stderr)  # below all that is yet to come
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(BUILD / "_C.so", target)

    def build_native(self, mode: str) -> None:
        if sys.platform != "linux":
            raise OSError(f"native code needs Linux, this is {sys.platform}")
        self.cxx = find_program("CXX", "g++", "clang++", "c++")
        if mode != "0":
            try:
                cuda = TOOLKIT["kept_cuda"](BUILD) if mode == "prebuilt" else ask_nvcc()
                self.run_ninja(cuda)
                return TOOLKIT["keep_cuda"](cuda, BUILD) if cuda.nvcc else None
            except (OSError, subprocess.CalledProcessError) as error:
                if mode != "auto":
                    raise OSError(f"TRPO_FAST_CUDA={mode}: {error}") from error
                print(f"trpo_fast: building without CUDA: {error}", file=sys.stderr)
        self.run_ninja(None)

    def units(self, cuda: SimpleNamespace | None) -> dict[Path, list[str]]:
        """Every source file with the flags that are its own."""
        import pybind11

        csrc, x86 = ROOT / "csrc", sysconfig.get_platform().endswith("x86_64")
        binding = ["-O1", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        binding.append(f'-DTRPO_FAST_VERSION="{self.distribution.get_version()}"')
        units = {source: binding for source in csrc.glob("bindings/*.cpp")}
        units |= {source: ISA_FLAGS.get(source.stem, []) for source in csrc.glob("cpu/**/*.cpp")}
        if cuda:
            binding.append(f'-DTRPO_FAST_CUDA_ARCHS="{";".join(cuda.gencode).replace(",", ";")}"')
            units |= {s: [*cuda.gencode.values()] for s in csrc.glob("cuda/**/*.cu") if cuda.nvcc}
        return {s: f for s, f in sorted(units.items()) if x86 or s.stem not in ISA_FLAGS}

    def run_ninja(self, cuda: SimpleNamespace | None) -> None:
        csrc = os.path.relpath(ROOT / "csrc", BUILD)  # relative: the tree may move, or hold spaces
        commands = {".cpp": [*self.cxx, *CXX_FLAGS, f"-I{csrc}", *env_words("CXXFLAGS")]}
        if cuda and cuda.nvcc:
            commands[".cu"] = [*cuda.nvcc, *NVCC_FLAGS, f"-I{csrc}", *env_words("NVCCFLAGS")]
        units = {s.relative_to(ROOT / "csrc"): flags for s, flags in self.units(cuda).items()}
        objects = [f"{name}.o" for name in units]
        edges = {f"{n}.o: compile {csrc}/{n}": commands[n.suffix] + f for n, f in units.items()}
        libraries = [*(cuda.link if cuda else []), *env_words("LDFLAGS")]
        edges[f"_C.so: link {' '.join(objects)}"] = [*self.cxx, *LINK_FLAGS, *objects, *libraries]
        text = "".join(f"build {edge}\n  run = {shlex.join(run)}\n" for edge, run in edges.items())
        BUILD.mkdir(parents=True, exist_ok=True)
        (BUILD / "build.ninja").write_text(RULES + text.replace("$", "$$"))
        ninja = [
            sys.executable,
            "-m",
            "ninja",
            "-C",
            BUILD,
            *map("-j".__add__, env_words("MAX_JOBS")),
        ]
        subprocess.run([*ninja, "_C.so"], check=True)


setup(ext_modules=[Extension("trpo_fast._C", [], optional=True)], cmdclass={"build_ext": Build})
