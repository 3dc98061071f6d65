"""Video Swin Transformer (`video_swin_{t,s,b}_p4w7`), an adapter around torchvision's blocks.

B clips, T frames, H x W the frame, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.video import SwinTransformer3d

from models.backbones.contract import Backbone
from models.backbones.swin import PATCH, SwinSize, run_stages

WINDOW = (8, 7, 7)  # frames, rows, columns

VIDEO_SWIN_SIZES = {
    "video_swin_t_p4w7": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "video_swin_s_p4w7": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.2),
    "video_swin_b_p4w7": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.2),
}


class VideoSwinBackbone(Backbone):
    """torchvision's Video Swin, taken apart into patches, four stages and the down-samplings between them.

    A patch is of one frame, so time is never reduced. Maps are taken in front of the down-sampling and have no norm.
    Attention windows hold 8 frames, shifted by 4 in every other block; a clip of at most 8 frames is one window deep.

    Args:
        size: of the network.
        drop_path: stochastic depth of the last block; None takes the published one.
        recompute: keep only the inputs of blocks, and recompute the rest in the backward pass.
    """

    def __init__(self, size: SwinSize, drop_path: float | None = None, recompute: bool = False):
        super().__init__()
        network = SwinTransformer3d(
            patch_size=[1, PATCH, PATCH],
            embed_dim=size.dim,
            depths=list(size.depths),
            num_heads=list(size.num_heads),
            window_size=list(WINDOW),
            stochastic_depth_prob=size.drop_path if drop_path is None else drop_path,
            num_classes=1,
        )
        self.patch_embed = network.patch_embed
        self.stages = nn.ModuleList(network.features[0::2])
        self.downsamples = nn.ModuleList(network.features[1::2])
        self.channels, self.recompute = size.channels, recompute

    def forward(self, frames: Tensor) -> list[Tensor]:
        x = self.patch_embed(frames.transpose(1, 2))  # (B, T, H/4, W/4, C), padded as needed
        outputs = run_stages(x, self.stages, self.downsamples, self.recompute)
        return [x.flatten(0, 1).permute(0, 3, 1, 2) for x in outputs]
