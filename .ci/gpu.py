"""Compiles the kernels by NVRTC and asks ptxas for their registers: see .ci/gpu."""

import ctypes
import difflib
import hashlib
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

FOLDER = Path("core/src/device/cu")
NVIDIA = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
# Two roundings in a product and a sum, and no other flag: see device.cuh.
OPTIONS = [b"--gpu-architecture=compute_80", b"--fmad=false", b"--std=c++17", b"-default-device"]
ARCHITECTURES = ["sm_80", "sm_90"]
# What the compiler writes, and the oldest version that has all that the kernels use: drivers from 470 on read it.
VERSION = (".version 8.8", ".version 7.4")


def sources():
    """The files that the PTX is made from, by name."""
    return sorted([*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")], key=lambda path: path.name)


def digest():
    """The SHA-256 of the sources one behind the other; tests/suite/ptx.rs computes the same."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources())).hexdigest()


def compile_ptx():
    """Compiles kernels.cu, which includes all others."""
    lib = NVIDIA / "cuda_nvrtc/lib"
    ctypes.CDLL(str(lib / "libnvrtc-builtins.so.12.9"), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(lib / "libnvrtc.so.12"))
    headers = [path for path in sources() if path.suffix == ".cuh"]
    texts = (ctypes.c_char_p * len(headers))(*[path.read_bytes() for path in headers])
    names = (ctypes.c_char_p * len(headers))(*[path.name.encode() for path in headers])
    program = ctypes.c_void_p()
    main = (FOLDER / "kernels.cu").read_bytes()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), main, b"kernels.cu", len(headers), texts, names):
        sys.exit("gpu: NVRTC does not take the sources")
    failed = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS))

    def read(what):
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{what}")(program, text)
        return text.value.decode()

    log = read("ProgramLog")
    if failed or log.strip():
        sys.exit(f"gpu: NVRTC says\n{log}")
    ptx = read("PTX")
    if VERSION[0] not in ptx:
        sys.exit(f"gpu: expected PTX with {VERSION[0]}, found {re.search(r'.version .*', ptx).group()}")
    # The first lines name the compiler, and its time of build.
    ptx = ptx[ptx.index(VERSION[0]):].replace(*VERSION, 1)
    for word in ("ftz", ".approx"):
        if word in ptx:
            sys.exit(f"gpu: the PTX has {word}: a result would not be rounded to the nearest")
    return f"// sha256 of the sources: {digest()}\n{ptx}"


def registers(ptx):
    """What ptxas says of each kernel, a line per architecture and kernel."""
    lines = ["architecture kernel registers shared_bytes stack_bytes spill_bytes"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "strata.ptx"
        path.write_text(ptx)
        for architecture in ARCHITECTURES:
            command = [NVIDIA / "cuda_nvcc/bin/ptxas", f"-arch={architecture}", "-v", path, "-o", Path(folder) / "cubin"]
            said = subprocess.run(command, capture_output=True, text=True)
            if said.returncode:
                sys.exit(f"gpu: ptxas says\n{said.stderr}")
            found = re.findall(
                r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
                r".*?Used (\d+) registers([^\n]*)",
                said.stderr,
                re.S,
            )
            for name, stack, stores, loads, used, rest in sorted(found):
                shared = re.search(r"(\d+) bytes smem", rest)
                spilled = int(stores) + int(loads)
                lines.append(f"{architecture} {name} {used} {shared.group(1) if shared else 0} {stack} {spilled}")
                if spilled:
                    sys.exit(f"gpu: {name} spills {spilled} bytes of registers on {architecture}")
    return "\n".join(lines) + "\n"


def main():
    ptx = compile_ptx()
    wrong = False
    for name, text in [("strata.ptx", ptx), ("registers.txt", registers(ptx))]:
        path = FOLDER / name
        if "--write" in sys.argv[1:]:
            path.write_text(text)
            continue
        committed = path.read_text() if path.exists() else ""
        if committed != text:
            wrong = True
            changes = difflib.unified_diff(committed.splitlines(), text.splitlines(), "committed", "compiled", lineterm="", n=1)
            print(f"gpu: {path} is not what the sources give: run .ci/gpu --write", *list(changes)[:20], sep="\n")
    if not wrong:
        print(f"gpu: {ptx.count('.visible .entry')} kernels, {len(ptx)} bytes of PTX")
    sys.exit(wrong)


main()
