"""Builds trpo_fast._C: writes a ninja file from what lies under csrc and lets ninja run it.

csrc/*.cpp pybind11; csrc/cpu/*.cpp CPU core, isa_*.cpp per instruction set; csrc/cuda/*.{cpp,cu}.
Ninja keeps depfiles and command lines: a touched header or a changed flag rebuilds what it must.

TRPO_FAST_REQUIRE_NATIVE=1   fail where otherwise a pure Python package would be installed
TRPO_FAST_CUDA=0|1|auto      leave CUDA out, fail without it, or (default) build it when nvcc works
TRPO_FAST_CUDA_ARCHS         such as 80;90a;90+PTX; default 80;90;100 if nvcc can, the last with PTX
CXX, CXXFLAGS, LDFLAGS, NVCC, NVCCFLAGS and MAX_JOBS are honoured.
"""

import os
import re
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
BUILD = ROOT / "build" / f"native-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
CXX_FLAGS = (  # never -ffast-math: NaN is honoured
    "-std=c++20 -O3 -fPIC -pthread -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra "
    "-fno-math-errno -fno-trapping-math -ffp-contract=fast"
).split()
NVCC_FLAGS = "-std=c++20 -O3 -t0 -Xcompiler -fPIC,-fvisibility=hidden".split()
LINK_FLAGS = "-shared -pthread -Wl,--exclude-libs,ALL -Wl,-O1".split()
ISA_FLAGS = {
    "isa_base": [],
    "isa_avx2": ["-march=x86-64-v3"],
    "isa_avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "isa_amx": ["-march=x86-64-v4", "-mamx-tile", "-mamx-bf16", "-mavx512bf16"],
}
NINJA_RULES = """
rule compile
  command = $run -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = $run -o $out
"""


def quote(command: list[str]) -> str:
    return shlex.join(command).replace("$", "$$") + "\n"


def env_flags(name: str) -> list[str]:
    return shlex.split(os.environ.get(name, ""))


def find_program(variable: str, *names: str) -> list[str]:
    """The command in the environment variable if it is set, else the first of names on PATH."""
    for command in [env_flags(variable)] if variable in os.environ else [[name] for name in names]:
        if command and shutil.which(command[0]):
            return command
    raise FileNotFoundError(f"no {' or '.join(names)} found ({variable} may name one)")


def cuda_archs(nvcc: list[str]) -> list[str]:
    if asked := os.environ.get("TRPO_FAST_CUDA_ARCHS"):
        if bad := [a for a in asked.split(";") if not re.fullmatch(r"\d+[af]?(\+PTX)?", a)]:
            raise ValueError(f"TRPO_FAST_CUDA_ARCHS: expected such as 80;90+PTX, got {bad[0]!r}")
        return asked.split(";")
    known = subprocess.run([*nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    archs = [a for a in ("80", "90", "100") if f"compute_{a}" in known.split()]
    return [*archs[:-1], f"{archs[-1]}+PTX"]


def gencode(arch: str) -> str:
    name = arch.removesuffix("+PTX")
    code = f"sm_{name}" if name == arch else f"[sm_{name},compute_{name}]"
    return f"-gencode=arch=compute_{name},code={code}"


def ask_nvcc() -> SimpleNamespace:
    """The toolkit as nvcc reports it: nvcc may be a wrapper script, its own path tells nothing."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = find_program("NVCC", "nvcc", f"{home}/bin/nvcc")
    dry = [*nvcc, "--dryrun", "-x", "cu", "-c", "/dev/null", "-o", "/dev/null"]
    said = subprocess.run(dry, capture_output=True, text=True, check=True).stderr
    value = dict(re.findall(r"^#\$ (\w+)= *(.*)$", said, re.MULTILINE))
    folders = [word[2:] for word in shlex.split(value["LIBRARIES"]) if word.startswith("-L")]
    folders += [f"{value['TOP']}/lib64", f"{value['TOP']}/lib"]
    found = [p for folder in folders if (p := Path(folder, "libcudart_static.a")).exists()]
    if not found:
        raise FileNotFoundError(f"no libcudart_static.a in {', '.join(folders)}")
    cudart, includes = str(found[0].resolve()), shlex.split(value["INCLUDES"])
    return SimpleNamespace(nvcc=nvcc, includes=includes, cudart=cudart, archs=cuda_archs(nvcc))


class BuildNative(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.developing = bool(self.inplace) and not self.editable_mode

    def build_extension(self, ext: Extension) -> None:
        """Without a compiler the package is pure Python, unless native code was asked for."""
        mode = os.environ.get("TRPO_FAST_CUDA", "auto")
        if mode not in ("0", "1", "auto"):
            raise ValueError(f"TRPO_FAST_CUDA: expected 0, 1 or auto, got {mode!r}")
        required = mode == "1" or os.environ.get("TRPO_FAST_REQUIRE_NATIVE") == "1"
        target = Path(self.get_ext_fullpath(ext.name))
        target.unlink(missing_ok=True)  # a stale one must not be packaged
        try:
            self.build_native(mode)
        except (OSError, ImportError, subprocess.CalledProcessError) as error:
            if required or self.developing:
                raise SystemExit(f"trpo_fast: no native code: {error}") from None
            print(f"trpo_fast: installing pure Python: {error}", file=sys.stderr)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(BUILD / "_C.so", target)

    def build_native(self, mode: str) -> None:
        if sys.platform != "linux":
            raise OSError(f"native code needs Linux, this is {sys.platform}")
        if mode != "0":
            try:
                return self.run_ninja(ask_nvcc())
            except (OSError, LookupError, subprocess.CalledProcessError) as error:
                if mode == "1":
                    raise OSError(f"TRPO_FAST_CUDA=1: {error}") from error
                print(f"trpo_fast: building without CUDA: {error}", file=sys.stderr)
        self.run_ninja(None)

    def units(self, cuda: SimpleNamespace | None) -> dict[Path, list[str]]:
        """Every source file with the flags that are its own."""
        import pybind11

        csrc, x86 = ROOT / "csrc", sysconfig.get_platform().endswith("x86_64")
        binding = ["-O1", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        binding.append(f'-DTRPO_FAST_VERSION="{self.distribution.get_version()}"')
        binding.append(f'-DTRPO_FAST_CUDA_ARCHS="{";".join(cuda.archs) if cuda else ""}"')
        units = {source: binding for source in csrc.glob("*.cpp")}
        units |= {source: ISA_FLAGS.get(source.stem, []) for source in csrc.glob("cpu/*.cpp")}
        if cuda:
            binding.append("-DTRPO_FAST_WITH_CUDA")
            units |= {source: cuda.includes for source in csrc.glob("cuda/*.cpp")}
            units |= {source: [*map(gencode, cuda.archs)] for source in csrc.glob("cuda/*.cu")}
        return {s: f for s, f in sorted(units.items()) if x86 or not ISA_FLAGS.get(s.stem)}

    def run_ninja(self, cuda: SimpleNamespace | None) -> None:
        import ninja

        BUILD.mkdir(parents=True, exist_ok=True)
        csrc = os.path.relpath(ROOT / "csrc", BUILD)  # relative: the tree may move, or hold spaces
        cxx = find_program("CXX", "g++", "clang++", "c++")
        compile_with = {".cpp": [*cxx, *CXX_FLAGS, f"-I{csrc}", *env_flags("CXXFLAGS")]}
        if cuda:
            compile_with[".cu"] = [*cuda.nvcc, *NVCC_FLAGS, f"-I{csrc}", *env_flags("NVCCFLAGS")]
        text, objects = NINJA_RULES, []
        for source, flags in self.units(cuda).items():
            name = source.relative_to(ROOT / "csrc")
            objects.append(f"{name}.o")
            text += f"build {name}.o: compile {csrc}/{name}\n  run = "
            text += quote([*compile_with[source.suffix], *flags])
        libraries = [cuda.cudart, "-ldl", "-lrt"] if cuda else []
        run = [*cxx, *LINK_FLAGS, *objects, *libraries, *env_flags("LDFLAGS")]
        text += f"build _C.so: link {' '.join(objects)}\n  run = {quote(run)}"
        (BUILD / "build.ninja").write_text(text)
        jobs = [f"-j{os.environ['MAX_JOBS']}"] if "MAX_JOBS" in os.environ else []
        subprocess.run([Path(ninja.BIN_DIR, "ninja"), "-C", BUILD, *jobs, "_C.so"], check=True)


setup(
    ext_modules=[Extension("trpo_fast._C", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative},
)
