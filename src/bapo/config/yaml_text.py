"""YAML read as data: nothing in it is run, and no key may stand twice in one mapping."""

from typing import Any

import yaml


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, which silently keeps the last of two equal keys, made strict."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node.

        Raises:
            ConstructorError: A key stands twice.
        """
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem=f"'{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def load_yaml(text: str) -> Any:
    """The one document in a text.

    Raises:
        YAMLError: The text is not YAML, holds Python tags, or has a key twice.
    """
    loader = _UniqueKeys(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
