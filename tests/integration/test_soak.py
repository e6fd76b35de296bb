"""Two thousand steps take no more of the machine than two hundred."""

import pytest
from benchmarks.soak import WORKERS, soak

pytestmark = pytest.mark.slow

GROWTH_MEGABYTES = 8.0


@pytest.mark.timeout(900)
def test_memory_files_threads_and_processes_are_flat_over_2000_steps(tmp_path):
    first, *later = soak(2000, 400, tmp_path)
    assert [one.step for one in later] == [800, 1200, 1600, 2000]
    for one in later:
        assert (one.files, one.threads, one.processes) == (first.files, first.threads, WORKERS)
        assert one.megabytes < first.megabytes + GROWTH_MEGABYTES
        assert one.worker_megabytes < first.worker_megabytes + GROWTH_MEGABYTES
    assert later[-1].replaced > 50
    assert later[-1].milliseconds < 2 * first.milliseconds
