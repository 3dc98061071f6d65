"""The operators `ms_deform_attn::forward` and `backward` as PyTorch knows them: schema, shapes, gradient, autocast.

The compiled kernels, where they were built, register themselves for CPU and CUDA when their library is loaded. All the
rest holds without them, so an exported program can be read anywhere.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "ms_deform_attn"
LIBRARY_FILE = Path(__file__).with_name("_kernels.so")

_library = torch.library.Library(NAMESPACE, "DEF")
_library.define(
    "forward(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights) -> Tensor",
    tags=[torch.Tag.pt2_compliant_tag],
)
_library.define(
    "backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
    "Tensor attention_weights) -> (Tensor, Tensor, Tensor)",
    tags=[torch.Tag.pt2_compliant_tag],
)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums over points are held in: float32 for half precision, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@torch.library.register_fake(f"{NAMESPACE}::forward", lib=_library)
def _forward_fake(value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake(f"{NAMESPACE}::backward", lib=_library)
def _backward_fake(
    grad_output: Tensor, value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, list[int], Tensor, Tensor], output: Tensor) -> None:
    value, ctx.spatial_shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _gradients(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grads = torch.ops.ms_deform_attn.backward(grad_output, value, ctx.spatial_shapes, locations, weights)
    return grads[0], None, grads[1], grads[2]


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pass


def _no_second_gradients(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        'compiled attention has no second derivative; choose ms_deform_attn(..., backend="torch")'
    )


torch.library.register_autograd(f"{NAMESPACE}::forward", _gradients, setup_context=_save_inputs, lib=_library)
torch.library.register_autograd(
    f"{NAMESPACE}::backward", _no_second_gradients, setup_context=_save_nothing, lib=_library
)


def autocast_inputs(value: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs as autocast wants them: values in its type, places and weights in float32, which half would blur."""
    device = value.device.type
    if value.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return value, locations, weights
    return value.to(torch.get_autocast_dtype(device)), locations.float(), weights.float()


def _register_autocast(device: str, key: str) -> None:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def forward(value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
        value, locations, weights = autocast_inputs(value, locations, weights)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return torch.ops.ms_deform_attn.forward(value, spatial_shapes, locations, weights)

    _library.impl("forward", forward, key)


_register_autocast("cpu", "AutocastCPU")
_register_autocast("cuda", "AutocastCUDA")


def _load_kernels() -> str | None:
    """Load the compiled kernels; returns why that failed, or None."""
    if not LIBRARY_FILE.is_file():
        return "they are not built"
    try:
        torch.ops.load_library(LIBRARY_FILE)
    except OSError as error:  # built for another PyTorch, or CUDA is missing
        return f"{LIBRARY_FILE.name} does not load ({error})"
    return None


LOAD_FAILURE = _load_kernels()


@functools.cache  # asked for in every call
def has_kernels(device_type: str) -> bool:
    """Whether compiled kernels for `cpu` or `cuda` are loaded."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::forward", key)
