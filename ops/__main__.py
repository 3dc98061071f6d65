# ruff: noqa: T201
"""`python -m ops`: what is built, what would be used, and whether it computes what plain PyTorch does."""

from __future__ import annotations

import logging
import os
import sys

import torch

from ops import library
from ops.dispatch import BACKEND_VARIABLE, choose_backend
from ops.selftest import CASES, TOLERANCES, differences


def main() -> int:
    """Print the report; returns the exit status, 1 if a kernel is wrong."""
    logging.basicConfig(level=logging.ERROR)
    _report()
    devices = [device for device in ("cpu", "cuda") if library.has_kernels(device) and _is_present(device)]
    failures = sum(not _passes(device, dtype) for device in devices for dtype in TOLERANCES)
    print(f"self-test: {failures} failed" if failures else f"self-test: passed on {', '.join(devices) or 'no device'}")
    return int(failures > 0)


def _report() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, CPU instructions {capability}")
    print(f"compiled kernels: {library.LOAD_FAILURE or library.LIBRARY_FILE}")
    print(f"{BACKEND_VARIABLE}: {os.environ.get(BACKEND_VARIABLE, 'not set')}")
    for device in ("cpu", "cuda"):
        built = "kernels built" if library.has_kernels(device) else "no kernels built"
        present = "" if _is_present(device) else ", no device here"
        try:
            choice = choose_backend(device)
        except (RuntimeError, ValueError) as error:
            choice = str(error)
        print(f"{device}: {built}{present}; auto means {choice}")


def _is_present(device: str) -> bool:
    return device == "cpu" or torch.cuda.is_available()


def _passes(device: str, dtype: torch.dtype) -> bool:
    worst: dict[str, float] = {}
    for case in CASES:
        for name, error in differences(case, dtype, device).items():
            worst[name] = max(worst.get(name, 0.0), error)
    passed = all(error <= TOLERANCES[dtype] for error in worst.values())
    errors = ", ".join(f"{name} {error:.1e}" for name, error in worst.items())
    print(f"{device} {str(dtype).removeprefix('torch.')}: {'ok' if passed else 'WRONG'} ({errors})")
    return passed


if __name__ == "__main__":
    sys.exit(main())
