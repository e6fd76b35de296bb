"""Makes pictures from their references: a file, a cell of a data set, or a drawing.

References are what records hold; this is the one place that turns them into pixels, so that the
same reference gives the same picture whoever asks, and whenever.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final

from bapo.errors import DataError
from bapo.tasks import geometry
from bapo.tasks.image_cells import place_of, read_cell
from bapo.types import ImageKind, ImageReference

DRAWERS: Final[Mapping[str, Callable[[str], Any]]] = {geometry.SOURCE: geometry.draw}
"""For each task that draws: from the detail of a reference to a Pillow image."""

_WHITE: Final = (255, 255, 255)


def open_image(reference: ImageReference) -> Any:
    """The RGB image, of Pillow, that a reference names.

    Raises:
        DataError: It is not there, is no picture, or is too large to be read safely.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError("Pictures need Pillow; install bapo[vision].") from None
    if reference.kind is ImageKind.DRAWN:
        image = DRAWERS[reference.source](reference.detail)
    else:
        image = _decoded(reference)
    return Image.new("RGB", image.size, _WHITE) if reference.blank else image


def _decoded(reference: ImageReference) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        held = reference.kind is ImageKind.CELL
        with Image.open(BytesIO(read_cell(reference)) if held else reference.source) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        reason = "it is no picture of a known kind"
    except Image.DecompressionBombError:
        reason = "it has far too many pixels"
    except FileNotFoundError:
        reason = "there is no such file"
    except (OSError, ValueError, SyntaxError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") or type(error).__name__
    raise DataError(
        f"The picture {place_of(reference)} cannot be read: {reason}; replace it or remove the row."
    )
