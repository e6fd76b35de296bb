"""Builds and loads the C functions of a token step (kernels.c) with the machine's own compiler.

They are built once per process, in a second or so, for the processor they run on, and never kept:
there is nothing that could be stale, or from somebody else. They run on the threads of torch's own
OpenMP, because a second set of threads would fight it for the cores.
"""

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from bapo.errors import ModelError

# Sums may be taken in another order, which is what lets them be vectorised; NaN stays NaN.
_FLAGS: Final = (
    "-O3 -march=native -fPIC -fopenmp "
    "-fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math"
)
_BUILD_SECONDS: Final = 30


# What `attend` is told of every row, in arrays of R int64.
ROW_FIELDS: Final = ("place", "own", "first", "width", "pad")


class BatchStruct(ctypes.Structure):
    """What `attend` is told of one layer; `struct batch` in kernels.c.

    R rows, H query heads and Hk key heads of `size` numbers, two that are rotated together side by
    side. A row has `own` tokens of its own, at most `longest`, at a `place` in keys and values of
    `(places, Hk, capacity, size)`. Its prompt is a part of keys and values of `(vectors, size)`: Hk
    times `width` vectors from `first` on, of which `pad` before each head's are padding.
    """

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "heads", "key_heads", "size")),
        *((name, ctypes.c_int64) for name in ("capacity", "longest")),
        *((name, ctypes.c_void_p) for name in ROW_FIELDS),
        *((name, ctypes.c_void_p) for name in ("prompt_keys", "prompt_values")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
    )


class Kernels:
    """The functions of kernels.c on contiguous float32 tensors.

    Args:
        library: What was built.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        number, pointer, threads = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        self._normalise = library.normalise
        self._normalise.argtypes = [number, number, pointer, ctypes.c_float, pointer, threads]
        self._normalise.restype = None
        self._activate = library.gated_activation
        self._activate.argtypes = [number, number, pointer, pointer, threads]
        self._activate.restype = None
        self._attend = library.attend
        self._attend.argtypes = [pointer, pointer, pointer, pointer, pointer, threads]
        self._attend.restype = ctypes.c_int
        self._draw = library.draw
        self._draw.argtypes = [number, number, pointer, pointer, ctypes.c_double]
        self._draw.argtypes += [pointer, pointer, threads]
        self._draw.restype = ctypes.c_int

    def normalise(self, states: Tensor, epsilon: float, out: Tensor) -> None:
        """`(R, W)` states over the root of their mean square plus epsilon."""
        rows, width = states.shape
        assert out.shape == states.shape
        self._normalise(rows, width, address(states), epsilon, address(out), _threads())

    def gated_activation(self, joined: Tensor, out: Tensor) -> None:
        """`silu(gate) * up`, `(R, I)`, where `(R, 2 I)` holds gate and then up."""
        rows, width = out.shape
        assert joined.shape == (rows, 2 * width)
        self._activate(rows, width, address(joined), address(out), _threads())

    def attend(
        self, batch: BatchStruct, qkv: Tensor, rotation: Tensor, positions: Tensor, out: Tensor
    ) -> None:
        """Attention of the newest token of every row; its key and value enter the cache.

        Args:
            batch: The layer.
            qkv: `(R, (H + 2 Hk) size)`, queries scaled; queries and keys are rotated in place.
            rotation: `(positions, size)` cosine and sine of each pair in turn.
            positions: `(R,)` int64.
            out: `(R, H size)`, is written.

        Raises:
            MemoryError: There is no memory for the scores of a row.
        """
        assert batch.longest < batch.capacity
        assert qkv.shape == (batch.rows, (batch.heads + 2 * batch.key_heads) * batch.size)
        assert out.shape == (batch.rows, batch.heads * batch.size)
        assert rotation.shape[1] == batch.size
        assert positions.shape == (batch.rows,)
        failed = self._attend(
            ctypes.addressof(batch),
            address(qkv),
            address(rotation),
            address(positions, torch.int64),
            address(out),
            _threads(),
        )
        if failed:
            raise MemoryError("No memory is left for the scores of a row's attention.")

    def draw(self, logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """`bapo.rollout.drawing.draw_tokens`, one pass over the logits of a row after another.

        Raises:
            MemoryError: There is no memory for the probabilities of a row.
        """
        rows, vocabulary = logits.shape
        assert uniforms.shape == (rows,)
        tokens, logps = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.float32)
        failed = self._draw(
            rows,
            vocabulary,
            address(logits),
            address(uniforms, torch.float64),
            temperature,
            address(tokens, torch.int64),
            address(logps),
            _threads(),
        )
        if failed:
            raise MemoryError("No memory is left for the probabilities of a row's tokens.")
        return tokens, logps


def kernels() -> Kernels:
    """The functions, built at the first call.

    Raises:
        ModelError: They cannot be built here; the sentence says why.
    """
    found = _built()
    if isinstance(found, str):
        raise ModelError(
            f"The compiled decoder cannot be built: {found}; install a C compiler, or set "
            "'rollout.decoder' to auto."
        )
    return found


def why_no_kernels() -> str:
    """Why the functions cannot be built here, as the end of a sentence; empty where they can."""
    found = _built()
    return found if isinstance(found, str) else ""


@cache
def _built() -> Kernels | str:
    found = compiled("bapo.rollout", "kernels.c")
    return found if isinstance(found, str) else Kernels(found)


def compiled(package: str, *names: str) -> ctypes.CDLL | str:
    """C functions, built; or why they cannot be, as the end of a sentence.

    Args:
        package: Where their files lie.
        names: Of the files; `exponential.h` is put in front of them.
    """
    threads_library = next(Path(torch.__file__).parent.glob("lib/libgomp*.so*"), None)
    if threads_library is None:
        return "torch does not run on GNU's OpenMP here"
    named = os.environ.get("CC", "").strip() or "cc"
    try:
        compiler = shlex.split(named)
    except ValueError as error:
        return f"CC is no command, {named}: {error}"
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler '{compiler[0]}'"
    try:
        # Where what is loaded cannot be removed, as on some network disks, it is left there.
        with tempfile.TemporaryDirectory(prefix="bapo-", ignore_cleanup_errors=True) as folder:
            files = [("bapo.rollout", "exponential.h"), *((package, name) for name in names)]
            source = b"".join(resources.files(one).joinpath(two).read_bytes() for one, two in files)
            built = _build(compiler, Path(folder), source)
            ctypes.CDLL(str(threads_library), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(built))
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode("utf-8", "replace").strip().splitlines()
        return f"the C compiler '{compiler[0]}' fails: {said[-1] if said else 'no message'}"
    except subprocess.TimeoutExpired:
        return f"the C compiler '{compiler[0]}' took longer than {_BUILD_SECONDS:g} seconds"
    except OSError as error:
        return f"building it fails: {error}"


def _build(compiler: list[str], folder: Path, source: bytes) -> Path:
    """Builds a shared library in a folder."""
    built, half = folder / "kernels.so", folder / "kernels.o"
    # Linked without OpenMP: its symbols are found in the library that torch has loaded.
    steps = (
        [*compiler, *_FLAGS.split(), "-x", "c", "-c", "-", "-o", str(half)],
        [*compiler, "-shared", str(half), "-o", str(built), "-lm"],
    )
    for command, given in zip(steps, (source, b""), strict=True):
        _call(command, given)
    return built


def _call(command: list[str], given: bytes) -> None:
    """Calls a compiler, which takes all that it has started with it when its time is over."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, start_new_session=True
    ) as process:
        try:
            _, said = process.communicate(given, _BUILD_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, stderr=said)


def address(tensor: Tensor, dtype: torch.dtype = torch.float32) -> int:
    """Where the numbers lie that C reads and writes, one after the other."""
    assert tensor.is_cpu
    assert tensor.dtype is dtype
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _threads() -> int:
    return torch.get_num_threads()
