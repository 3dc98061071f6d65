import torch

from datasets.clips import Sample
from datasets.collate import collate
from datasets.transforms import make_targets


def sample(h: int, w: int, name: str, num_frames: int = 2) -> Sample:
    generator = torch.Generator().manual_seed(h * w)
    masks = torch.rand(num_frames, h, w, generator=generator) > 0.5
    frames = torch.randn(num_frames, 3, h, w, generator=generator)
    return Sample(frames, f"caption of {name}", make_targets(masks, 0), name)


def test_padding_to_the_largest_and_a_multiple() -> None:
    samples = [sample(40, 50, "a"), sample(20, 65, "b")]
    batch = collate(samples)
    assert batch.frames.shape == (2, 2, 3, 64, 96) and batch.padding_mask.shape == (2, 2, 64, 96)
    assert batch.frame_sizes.tolist() == [[40, 50], [20, 65]] and batch.frame_sizes.dtype == torch.int64
    assert batch.captions == ["caption of a", "caption of b"] and batch.names == ["a", "b"]
    assert batch.annotated_frame is None
    for index, item in enumerate(samples):
        h, w = item.frames.shape[-2:]
        assert torch.equal(batch.frames[index, ..., :h, :w], item.frames)
        assert (batch.frames[index].masked_select(batch.padding_mask[index][:, None]) == 0).all()
        assert not batch.padding_mask[index, :, :h, :w].any()
        assert (~batch.padding_mask[index]).sum() == 2 * h * w
        assert batch.targets[index] is item.targets


def test_exact_multiples_are_not_padded() -> None:
    batch = collate([sample(64, 32, "a")])
    assert batch.frames.shape[-2:] == (64, 32) and not batch.padding_mask.any()
    assert collate([sample(30, 30, "a")], multiple=1).frames.shape[-2:] == (30, 30)
