import numpy as np

from bapo.rollout.randomness import BLOCK, completion_key, uniform_block


def test_keys_tell_every_part_apart():
    parts = [(0, 1, "p", 2), (1, 1, "p", 2), (0, 2, "p", 2), (0, 1, "q", 2), (0, 1, "p", 3)]
    parts += [(0, 11, "2p", 2), (0, 1, "12p", 2), (1, 2, "p", 1)]
    keys = {completion_key(*part) for part in parts}
    assert len(keys) == len(parts)
    assert all(0 <= key < 2**128 for key in keys)


def test_keys_are_the_same_in_every_process():
    assert completion_key(0, 1, "p", 2) == 0xD83CCEF4C8D48F71A4B84D7CE783CBDD


def test_a_row_does_not_depend_on_the_other_keys():
    together = uniform_block([3, 4, 5], 2)
    assert together.shape == (3, BLOCK)
    assert np.array_equal(together[1:2], uniform_block([4], 2))


def test_blocks_continue_one_stream():
    stream = np.random.Generator(np.random.Philox(key=9)).random(3 * BLOCK)
    blocks = np.concatenate([uniform_block([9], number)[0] for number in range(3)])
    assert np.array_equal(stream, blocks)


def test_every_block_of_every_key_is_that_of_a_generator_of_its_own():
    """The smallest and the largest keys, and ones with either half empty, beside ordinary ones."""
    keys = [completion_key(0, step, "p", 1) for step in range(60)]
    keys += [0, 1, 2**64 - 1, 2**64, 2**127, 2**128 - 2**64, 2**128 - 1]
    for block in (0, 1, 2, 63, 1000, 2**20):
        own = [np.random.Philox(key=key, counter=block * BLOCK // 4) for key in keys]
        expected = np.stack([np.random.Generator(bits).random(BLOCK) for bits in own])
        assert np.array_equal(uniform_block(keys, block), expected)


def test_numbers_are_spread_over_the_unit_interval():
    numbers = uniform_block(range(200), 0)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    expected = numbers.size / 10
    assert ((counts - expected) ** 2 / expected).sum() < 9 + 5 * np.sqrt(18)
