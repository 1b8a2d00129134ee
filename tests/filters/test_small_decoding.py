"""JPEGs decoded small: nearly what full decoding gives, only where that was allowed, and broken ones still are."""

import threading
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pairsieve.filters._codes import Code
from pairsieve.filters._decode_memory import DecodeMemory
from pairsieve.filters._images import BrokenImageError, Decoded, decode, decode_image, look
from pairsieve.filters._resize import ResizeMode, Resizer
from tests.support_pictures import Pixels, jpeg, natural, psnr


def both(data: bytes, side: int, mode: ResizeMode = "keep_ratio") -> tuple[Decoded, Pixels, Pixels]:
    """What was decoded for the default, and both pictures before they are encoded."""
    made = {exact: Resizer(side, mode, exact=exact) for exact in (True, False)}
    small, whole = decode_image(data, wanted=made[False].reduced), decode_image(data, wanted=made[True].reduced)
    assert whole.scale == 1 and whole.size == small.size
    pictures = [
        made[exact].resize(image.pixels, (), image.size, image.scale)
        for exact, image in ((False, small), (True, whole))
    ]
    return small, pictures[0][:, :, :3], pictures[1][:, :, :3]


@pytest.mark.parametrize("slope", [1.2, 1.5])
@pytest.mark.parametrize(
    ("width", "height", "side", "scale"),
    [(768, 576, 144, 2), (763, 573, 142, 2), (501, 703, 100, 2), (801, 603, 70, 4), (807, 605, 37, 8)],
)
def test_small_ones_are_near(width: int, height: int, side: int, scale: int, slope: float) -> None:
    """At least 40 dB from the whole picture reduced, at sizes that no scale divides too."""
    image, small, whole = both(jpeg(natural(width, height, 3, slope)), side)
    assert (image.scale, image.size) == (scale, (width, height))
    assert image.pixels.shape[:2] == (-(-height // scale), -(-width // scale))
    assert small.shape == whole.shape
    assert psnr(small, whole) >= 40


def test_grey_ones_too() -> None:
    """With one channel."""
    made = Resizer(100, "keep_ratio", exact=False)
    image = decode_image(jpeg(natural(801, 603)[:, :, 1]), wanted=made.reduced)
    assert (image.scale, image.pixels.shape) == (2, (302, 401))
    assert made.resize(image.pixels, (), image.size, image.scale).shape == (100, 133)


@pytest.mark.parametrize(
    "made",
    [
        Resizer(64, "keep_ratio", exact=True),
        Resizer(129, "keep_ratio", exact=False),
        Resizer(100, "keep_ratio", exact=False, downscale_interpolation="cubic"),
        Resizer(100, "no", exact=False),
        Resizer(100, "keep_ratio", exact=False, resize_only_if_bigger=True, downscale_interpolation="lanczos"),
        Resizer(2000, "border", exact=False),
    ],
)
def test_others_are_decoded_in_full(made: Resizer) -> None:
    """Below four times the wanted size, with another interpolation, or where exact pixels were asked for."""
    assert decode_image(jpeg(natural(700, 513)), wanted=made.reduced).scale == 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_ones_lie_right(turn: int) -> None:
    """What EXIF turns is turned after it was decoded small, or in full where an edge would end within a pixel."""
    pixels = natural(648, 488, 5)
    sizes = {}
    for width in (648, 647):
        out, exif = BytesIO(), Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(np.ascontiguousarray(pixels[:, :width])).save(out, "JPEG", quality=95, exif=exif)
        image, small, whole = both(out.getvalue(), 120)
        assert psnr(small, whole) >= 40
        sizes[width] = image.scale
    assert sizes == {648: 2, 647: 2 if turn == 1 else 1}


@pytest.mark.parametrize("side", [60, 4000])
def test_broken_files_stay_broken(side: int) -> None:
    """Cut anywhere, whatever size is wanted."""
    data = jpeg(natural(640, 480))
    made = Resizer(side, "keep_ratio", exact=False)
    for cut in range(len(data) // 7, len(data), len(data) // 7):
        with pytest.raises(BrokenImageError) as caught:
            decode_image(data[:cut], wanted=made.reduced)
        assert caught.value.code is Code.BROKEN_IMAGE


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["sequential", "progressive"])
def test_scans_without_end(options: dict[str, bool]) -> None:
    """A file that repeats its scans 300 times is broken, or decodes as without them, and soon."""
    out = BytesIO()
    Image.fromarray(natural(900, 900)).save(out, "JPEG", quality=20, **options)
    data = out.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    began = time.process_time()
    try:
        assert decode_image(data[:-2] + scan * 300 + data[-2:]).size == (900, 900)
    except BrokenImageError as error:
        assert error.code is Code.BROKEN_IMAGE
    assert time.process_time() - began < 1


def test_junk_before_the_end_does_no_harm() -> None:
    """Bytes that libjpeg warns of and browsers do not mind: Pillow's picture of them."""
    data = jpeg(natural(320, 240))
    junk = data[:-2] + b"\0\0\0" + data[-2:]
    assert np.array_equal(decode(junk), np.asarray(Image.open(BytesIO(junk))))


def test_pixels_of_a_jpeg_are_pillows() -> None:
    """Decoded in full, whatever the subsampling, and progressive or not."""
    image = Image.fromarray(natural(317, 243))
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            out = BytesIO()
            image.save(out, "JPEG", subsampling=subsampling, progressive=progressive)
            assert np.array_equal(decode(out.getvalue()), np.asarray(Image.open(out)))


def test_looking_decodes_nothing() -> None:
    """A file says its size and EXIF; what follows may be broken."""
    data = jpeg(natural(320, 240))
    seen = look(data[: len(data) // 2])
    assert (seen.kind, seen.size) == ("jpeg", (320, 240))
    with pytest.raises(BrokenImageError) as caught:
        look(data, max_pixels=320 * 240 - 1)
    assert caught.value.code is Code.TOO_MANY_PIXELS
    with pytest.raises(BrokenImageError) as caught:
        look(b"<html>" * 50)
    assert caught.value.code is Code.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_looking_at_other_formats(kind: str) -> None:
    """Each tells its size."""
    out = BytesIO()
    Image.fromarray(natural(64, 48)).save(out, kind)
    assert look(out.getvalue()).size == (64, 48)


def test_what_is_decoded_at_a_time_is_bounded() -> None:
    """Pictures wait until there is room; one that needs more than there is has it alone."""
    memory = DecodeMemory(2 * 15 * 100)
    held, most, lock = 0, 0, threading.Lock()

    def work(size: tuple[int, int]) -> None:
        nonlocal held, most
        with memory.hold("jpeg", size):
            with lock:
                held += size[0] * size[1]
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= size[0] * size[1]

    sizes = [(10, 10)] * 20 + [(30, 30)] * 3 + [(10, 20)] * 5
    threads = [threading.Thread(target=work, args=[size]) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert held == 0
    assert most == 900


def test_decoding_holds_memory_by_the_header() -> None:
    """A file that announces many pixels waits although it is small; a failure gives back what it held."""
    memory = DecodeMemory(100)
    with memory.hold("gif", (1, 1)):
        thread = threading.Thread(target=decode_image, args=[jpeg(natural(64, 48))], kwargs={"memory": memory})
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(BrokenImageError):
        decode_image(jpeg(natural(64, 48))[:900], memory=memory)
    assert decode_image(jpeg(natural(64, 48)), memory=memory).pixels.shape == (48, 64, 3)
