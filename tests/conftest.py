"""Settings of the whole test run."""

import os

# The models of the tests are so small that a second thread only waits for the first, and waits long
# where cores are shared. Before torch is imported, and for every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
