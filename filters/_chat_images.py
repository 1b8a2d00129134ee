"""Images as data URLs: a file as it is where a server takes it, else as a JPEG of a bounded size.

Every image is decoded once before it is sent, about 3 ms for 640×480, so that a broken one is a reason here rather
than an error there.  A file that goes as it is keeps its EXIF orientation; one that is made anew is upright.
"""

from base64 import b64encode

from pairsieve.filters._codes import Code
from pairsieve.filters._images import BrokenImageError, Decoded, decode_image
from pairsieve.filters._resize import Resizer

TAKEN = ("jpeg", "png", "webp")
"""Formats that every server of images takes."""
MOST_BYTES = 20_000_000
"""Of a file that is sent as it is."""
LARGEST_SIDE = 4096
"""Pixels of an image that had to be made anew, where the settings give no bound."""


def data_url(data: bytes, side: int | None) -> tuple[str | None, str | None]:
    """(URL, None), or (None, why): ``broken_image``, ``too_many_pixels``."""
    try:
        image = decode_image(data)
        sent, kind = _sent(data, image, side)
    except BrokenImageError as error:
        return None, "too_many_pixels" if error.code is Code.TOO_MANY_PIXELS else "broken_image"
    return f"data:image/{kind};base64,{b64encode(sent).decode()}", None


def _sent(data: bytes, image: Decoded, side: int | None) -> tuple[bytes, str]:
    """The file, or a JPEG with the longest side of at most ``side`` pixels."""
    is_small = side is None or max(image.pixels.shape[:2]) <= side
    if is_small and image.kind in TAKEN and len(data) <= MOST_BYTES:
        return data, image.kind
    resizer = Resizer(side or LARGEST_SIDE, "keep_ratio_largest", resize_only_if_bigger=True)
    return resizer.store(data, image).data, "jpeg"
