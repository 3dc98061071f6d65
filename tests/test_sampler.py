from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.sampler import ClipSampler


def epoch_of(sampler: ClipSampler, epoch: int = 0, batches_done: int = 0) -> list[list[tuple[int, int]]]:
    sampler.set_position(epoch, batches_done)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


def test_an_epoch_holds_every_clip_once() -> None:
    sampler = ClipSampler(12, 3, 0, 1, seed=5)
    pairs = list(chain(*epoch_of(sampler, 4)))
    assert {epoch for epoch, _ in pairs} == {4}
    assert sorted(index for _, index in pairs) == list(range(12)) and sampler.batches_per_epoch == 4


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = epoch_of(ClipSampler(50, 5, 0, 1, seed=1))
    assert first == epoch_of(ClipSampler(50, 5, 0, 1, seed=1))
    orders = [first, epoch_of(ClipSampler(50, 5, 0, 1, seed=2)), epoch_of(ClipSampler(50, 5, 0, 1, seed=1), 1)]
    flat = [[index for _, index in chain(*order)] for order in orders]
    assert flat[0] != flat[1] and flat[0] != flat[2] and flat[0] != list(range(50))


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_ranks_share_the_global_batches(n: int, batch: int, ranks: int, drop_last: bool, epoch: int) -> None:
    if drop_last and n < batch * ranks:
        with pytest.raises(ValueError, match=r"fewer than one batch.*lower optim\.batch_size"):
            ClipSampler(n, batch, 0, ranks, seed=0)
        return
    alone = epoch_of(ClipSampler(n, batch * ranks, 0, 1, seed=0, drop_last=drop_last), epoch)
    shares = [epoch_of(ClipSampler(n, batch, rank, ranks, seed=0, drop_last=drop_last), epoch) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    for number, whole in enumerate(alone):
        joined = list(chain(*(share[number] for share in shares)))
        assert all(1 <= len(share[number]) <= batch for share in shares)
        assert joined[: len(whole)] == whole
        assert len(joined) == max(len(whole), ranks)
    seen = [index for _, index in chain(*alone)]
    assert len(set(seen)) == len(seen) == (n // (batch * ranks) * batch * ranks if drop_last else n)


@pytest.mark.parametrize("drop_last", [True, False])
def test_going_on_from_any_batch(drop_last: bool) -> None:
    for rank in range(2):
        whole = epoch_of(ClipSampler(23, 3, rank, 2, seed=9, drop_last=drop_last), 2)
        for done in range(len(whole) + 1):
            fresh = ClipSampler(23, 3, rank, 2, seed=9, drop_last=drop_last)
            assert epoch_of(fresh, 2, done) == whole[done:]


@pytest.mark.parametrize(("epoch", "done"), [(-1, 0), (0, -1), (0, 5)])
def test_positions_that_do_not_exist(epoch: int, done: int) -> None:
    with pytest.raises(ValueError, match="has no position"):
        ClipSampler(12, 3, 0, 1, seed=0).set_position(epoch, done)


@pytest.mark.parametrize("arguments", [(0, 1, 0, 1), (5, 0, 0, 1), (5, 1, 2, 2), (5, 1, -1, 2)])
def test_numbers_out_of_range(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no batches of"):
        ClipSampler(*arguments, seed=0)
