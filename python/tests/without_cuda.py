#!/usr/bin/env python3
"""Lets PyTorch's build for CUDA be imported without CUDA's libraries, which are gigabytes that no test uses.

Writes stand-ins for the libraries that are missing beside those of PyTorch, in this interpreter's environment: each has
the symbols and versions that PyTorch asks for, and every function says that it has failed or returns nothing. Needs gcc
and binutils. Does nothing where PyTorch can be imported.
"""

import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

# By the beginnings of their functions' names: most libraries give their symbols no versions.
PREFIXES = {
    "cudart": ["cuda", "__cuda"],
    "cupti": ["cupti"],
    "cudnn": ["cudnn"],
    "cufile": ["cuFile"],
    "cusparseLt": ["cusparseLt"],
    "cusparse": ["cusparse"],
    "cufft": ["cufft"],
    "nccl": ["nccl", "pnccl"],
    "cublasLt": ["cublasLt"],
    "cublas": ["cublas"],
    "nvrtc": ["nvrtc"],
    "cusolver": ["cusolver"],
    "curand": ["curand"],
    "nvshmem": ["nvshmem"],
    "nvToolsExt": ["nvtx"],
}
FAILURES = {"cudaGetDeviceCount": 100, "cudaGetDevice": 100}
TEXTS = re.compile(r"(String|Name)$")


def output(*command):
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def missing(libraries):
    """The names of libraries that some library needs and the system does not find."""
    found = set()
    for library in libraries:
        found |= set(re.findall(r"^\s*(\S+) => not found", output("ldd", library), re.M))
    return sorted(found)


def undefined(libraries):
    """Symbols that no library defines, with the versions that are asked for."""
    symbols = {}
    for library in libraries:
        for line in output("nm", "-D", "-u", "--with-symbol-versions", library).splitlines():
            name, _, version = line.split()[-1].partition("@")
            symbols[name] = version.lstrip("@")
    return symbols


def library_of(symbol, version, names):
    for name in names:
        if version and version.startswith(name.split(".so")[0] + "."):
            return name
    stems = {re.match(r"lib(\w+?)(_host)?\.so", name).group(1): name for name in names}
    for stem, prefixes in sorted(PREFIXES.items(), key=lambda item: -len(item[0])):
        if stem in stems and any(symbol.startswith(prefix) for prefix in prefixes):
            return stems[stem]
    return None


def source(symbols):
    lines = []
    for symbol in symbols:
        if TEXTS.search(symbol):
            lines.append(f'const char *{symbol}(void) {{ return "no CUDA here"; }}')
        else:
            lines.append(f"long {symbol}(void) {{ return {FAILURES.get(symbol, 0)}; }}")
    return "\n".join(lines) + "\n"


def main():
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0:
        return
    folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib"
    libraries = sorted(str(path) for path in folder.glob("*.so*"))
    names = missing(libraries)
    symbols = {name: {} for name in names}
    for symbol, version in undefined(libraries).items():
        library = library_of(symbol, version, names)
        if library:
            symbols[library][symbol] = version
    for library, wanted in symbols.items():
        with tempfile.TemporaryDirectory() as scratch:
            code, script = pathlib.Path(scratch, "code.c"), pathlib.Path(scratch, "versions")
            code.write_text(source(wanted))
            versions = {version for version in wanted.values() if version}
            text = "".join(
                f"{version} {{ global: {'; '.join(name for name in wanted if wanted[name] == version)}; }};\n"
                for version in sorted(versions)
            )
            script.write_text(text)
            options = ["-w", "-shared", "-fPIC", "-fno-builtin", f"-Wl,-soname,{library}", "-o", str(folder / library)]
            if versions:
                options.append(f"-Wl,--version-script={script}")
            subprocess.run(["gcc", *options, str(code)], check=True)
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import torch"], check=True)


if __name__ == "__main__":
    main()
