"""Multi-scale deformable attention: one function behind which a compiled kernel or plain PyTorch does the work."""

from ops.dispatch import ms_deform_attn

__all__ = ["ms_deform_attn"]
