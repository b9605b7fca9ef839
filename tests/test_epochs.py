"""Train ids: every example once an epoch, in an order of its own, the same for any batch."""

import numpy as np
import pytest

from tasks.data.epochs import BLOCK, GROUP, Epochs, in_complete_groups, of_similar_length


def test_every_example_comes_once_in_an_epoch_and_orders_differ():
    epochs = Epochs(0, 10)
    first, second = epochs(range(10)), epochs(range(10, 20))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert first.tolist() != Epochs(1, 10)(range(10)).tolist()


def test_an_id_is_the_same_example_in_any_batch_and_order():
    ids = [95, 3, 12, 3, 40, 9]
    together = Epochs(0, 10)(ids)
    assert [int(Epochs(0, 10)([i])[0]) for i in ids] == together.tolist()
    assert Epochs(0, 10)(range(100))[ids].tolist() == together.tolist()
    one = Epochs(0, 10)
    assert [int(one([i])[0]) for i in ids] == together.tolist()  # going back, too


def test_own_draws_are_of_the_seed_and_the_epoch():
    def draw(generator: np.random.Generator) -> np.ndarray:
        return 100 + generator.permutation(4)

    found = Epochs(3, 4, draw)(range(8))
    assert found.tolist() == [*draw(np.random.default_rng((3, 0))), *draw(np.random.default_rng((3, 1)))]


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="0 train examples: at least 1 is needed"):
        Epochs(0, 0)


@pytest.mark.parametrize(("count", "kept"), [(GROUP - 1, GROUP - 1), (GROUP, GROUP), (3 * GROUP + 5, 3 * GROUP)])
def test_whole_groups_where_there_is_one(count: int, kept: int):
    assert in_complete_groups(count) == kept


def test_neighbours_are_of_similar_length():
    """Blocks are sorted by length and cut into groups; the order of groups is mixed, not sorted."""
    lengths = np.random.default_rng(0).permutation(2 * BLOCK)
    order = of_similar_length(lengths)(np.random.default_rng(1))
    assert sorted(order) == list(range(2 * BLOCK))
    mixed = 0
    for block in np.split(lengths[order], 2):
        groups = [group.tolist() for group in np.split(block, BLOCK // GROUP)]
        assert [length for group in sorted(groups) for length in group] == sorted(block)
        mixed += groups != sorted(groups)
    assert mixed == 2
    assert len(of_similar_length(lengths, 100)(np.random.default_rng(1))) == 100
