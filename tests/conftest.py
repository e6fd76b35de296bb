"""Settings of the whole test run."""

import os
import signal

# The models of the tests are so small that a second thread only waits for the first, and waits long
# where cores are shared. Before torch is imported, and for every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with SIGINT ignored, which processes pass on; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
