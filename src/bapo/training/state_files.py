"""State trees as files that cannot run code: JSON for the structure, safetensors for the numbers.

A tree holds dicts, lists, tuples, str, int, float, bool, None, NumPy arrays and tensors.
`NAME.json` has everything but the numbers of arrays and tensors; in their place it names an entry
of `NAME.safetensors`, which is there only if the tree has any. What JSON cannot say is written as
an object with one key that begins with `$`; a mapping with such keys of its own is written as
pairs, so that no content can be taken for a sign. The round trip is exact.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bapo.training.durable import sync_file

Tree = Any

_ITEMS, _TUPLE, _ARRAY, _TENSOR = "$items", "$tuple", "$array", "$tensor"


def write_tree(folder: Path, name: str, tree: Tree) -> None:
    """Writes a tree as `NAME.json` and `NAME.safetensors` and waits until they are on disk.

    Raises:
        OSError: A file cannot be written.
        SafetensorError: Likewise, as safetensors says it.
        TypeError: The tree holds something else than a tree may.
    """
    tensors: dict[str, Tensor] = {}
    plain = _detached(tree, "", tensors)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(plain) + "\n", encoding="utf-8")
    sync_file(path)
    if tensors:
        numbers = folder / f"{name}.safetensors"
        save_file(tensors, numbers)
        sync_file(numbers)


def read_tree(folder: Path, name: str) -> Tree:
    """The tree that `write_tree` wrote; its arrays and tensors, on the CPU, own their memory."""
    plain = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    numbers = folder / f"{name}.safetensors"
    tensors = load_file(numbers) if numbers.is_file() else {}
    return _attached(plain, tensors)


def _detached(value: Tree, path: str, tensors: dict[str, Tensor]) -> Any:
    """A value with its arrays and tensors taken out and put into `tensors`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return _detached_mapping(cast("Mapping[Any, Tree]", value), path, tensors)
    if isinstance(value, (list, tuple)):
        items = [_detached(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if isinstance(value, np.ndarray):
        return {_ARRAY: _take(torch.from_numpy(np.array(value, order="C")), path, tensors)}
    if isinstance(value, Tensor):
        return {_TENSOR: _take(_whole(value), path, tensors)}
    raise TypeError(f"The state '{path}' is {value!r}, which a checkpoint cannot hold.")


def _detached_mapping(
    value: Mapping[Any, Tree], path: str, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    items = [(key, _detached(item, f"{path}/{key}", tensors)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
        return dict(items)
    return {_ITEMS: [[_detached(key, path, tensors), item] for key, item in items]}


def _take(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    name = path.removeprefix("/")
    while name in tensors:  # a key with a slash may look like a path
        name += "'"
    tensors[name] = tensor
    return name


def _whole(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, alone in its memory, as safetensors wants it."""
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def _attached(value: Any, tensors: Mapping[str, Tensor]) -> Tree:
    """The value that `_detached` took apart.

    Tensors are copied: what safetensors gives is a view of the file, which a later checkpoint may
    remove, and whose alignment could change the last bits of a matrix product.
    """
    if isinstance(value, list):
        return [_attached(item, tensors) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    mapping = cast("dict[str, Any]", value)
    signs: dict[str, Callable[[Any], Tree]] = {
        _ITEMS: lambda pairs: {
            _attached(key, tensors): _attached(item, tensors) for key, item in pairs
        },
        _TUPLE: lambda items: tuple(_attached(item, tensors) for item in items),
        _ARRAY: lambda name: tensors[name].clone().numpy(),
        _TENSOR: lambda name: tensors[name].clone(),
    }
    for sign, read in signs.items():
        if sign in mapping:
            return read(mapping[sign])
    return {key: _attached(item, tensors) for key, item in mapping.items()}
