"""The stand-in libcuda, compiled and loaded before pycuda is."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.runtime.device import prepare

OUT_OF_MEMORY, LAUNCH_FAILED, ILLEGAL_ADDRESS = 2, 719, 700
_SOURCE = Path(__file__).with_name("libcuda.c")


def why_not() -> str | None:
    """Return what this machine lacks for the simulator, or None."""
    if shutil.which("gcc") is None:
        return "gcc is missing"
    if prepare.cuda_root() is None:
        return "CUDA's headers are missing"
    if not prepare.pycuda_folder().is_dir():
        return "pycuda is not built: python tests/runtime/device/prepare.py pycuda"
    if not prepare.cuda_python_folder().is_dir():
        return "cuda-python is not there: python tests/runtime/device/prepare.py bindings"
    return None


def compile_simulator(folder: Path) -> Path:
    """Compile `libcuda.so.1` into `folder`. Functions that pycuda names and the source lacks report themselves."""
    library = folder / "libcuda.so.1"
    root = prepare.cuda_root()
    assert root is not None
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    command += [f"-I{root}/include", "-Wl,-soname,libcuda.so.1", "-o"]
    subprocess.run([*command, str(library), str(_SOURCE)], check=True)
    driver = next(prepare.pycuda_folder().glob("pycuda/_driver*.so"))
    missing = sorted(_symbols(driver, "--undefined-only") - _symbols(library, "--defined-only"))
    rest = folder / "rest.c"
    lines = [f'int {name}(void) {{ return sim_unsupported("{name}"); }}' for name in missing]
    rest.write_text("int sim_unsupported(const char *);\n" + "\n".join(lines) + "\n")
    subprocess.run([*command, str(library), str(_SOURCE), str(rest)], check=True)
    return library


def _symbols(library: Path, which: str) -> set[str]:
    listed = subprocess.run(["nm", "-D", which, str(library)], capture_output=True, text=True, check=True).stdout
    names = (line.split()[-1].partition("@")[0] for line in listed.splitlines() if line.strip())
    return {name for name in names if name.startswith("cu") and name[2:3].isupper()}


class Simulator:
    """The loaded stand-in. One in a process, as pycuda is."""

    def __init__(self, library: Path) -> None:
        self.lib = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        pointer, text = ctypes.c_uint64, ctypes.c_char_p
        self.lib.sim_launch.argtypes = [ctypes.c_void_p, pointer, pointer, ctypes.c_void_p, ctypes.c_void_p]
        self.lib.sim_size.argtypes, self.lib.sim_size.restype = [pointer], ctypes.c_longlong
        self.lib.sim_bytes.argtypes, self.lib.sim_bytes.restype = [pointer], ctypes.c_void_p
        self.lib.sim_problem.argtypes = [text]
        self.lib.sim_is_capturing.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self.lib.sim_is_in_graph.argtypes = [ctypes.c_void_p]
        self.lib.sim_fail.argtypes = [text, ctypes.c_ulonglong, ctypes.c_int]
        self.lib.sim_configure.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_ulonglong]
        self.lib.sim_calls.restype = ctypes.c_ulonglong
        self.lib.sim_problems.restype = self.lib.sim_trace.restype = text
        for folder in (prepare.pycuda_folder(), prepare.cuda_python_folder()):
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
        for module in ("pycuda.driver", "cuda.bindings.driver"):
            importlib.import_module(module)

    def reset(self) -> None:
        """Forget everything but the primary context, which a process keeps."""
        self.lib.sim_reset()

    def configure(self, *, devices: int = 1, integrated: bool = True, memory: int = 8 << 30) -> None:
        """Choose the machine, until the next reset."""
        self.lib.sim_configure(devices, integrated, memory)

    def fail(self, code: int, *, call: str = "", count: int = 1) -> None:
        """Order failure `code` from the `count`th call of a function on, or for the `count`th of any alone.

        Every code but out of memory loses the device until the next reset. A count of 0 takes the order back.
        """
        self.lib.sim_fail(call.encode(), count, code)

    def expect_retain(self) -> None:
        """Take it as no problem that one more library retains the primary context, as each does once."""
        self.lib.sim_expect_retain()

    def echo(self) -> None:
        """Write each problem to standard error at once, as pycuda may end the process."""
        self.lib.sim_echo()

    @property
    def calls(self) -> int:
        """How many calls there were since the process began."""
        return int(self.lib.sim_calls())

    @property
    def is_lost(self) -> bool:
        """Whether a failure that stays was met."""
        return bool(self.lib.sim_is_lost())

    def trace(self) -> list[str]:
        """Return the calls since the last reset, by name."""
        return list(self.lib.sim_trace().decode().splitlines())

    def problems(self) -> list[str]:
        """Look for what was left behind and return all problems since the last reset, as `rule: detail`."""
        return list(self.lib.sim_problems().decode().splitlines())

    def note(self, problem: str) -> None:
        """Add a problem."""
        self.lib.sim_problem(problem.encode())
