"""The image that a request carries."""

import io

from fastapi import HTTPException, Request
from PIL import Image

#: Bytes of an image file that are read at most.
LARGEST = 32 << 20


class BadImage(ValueError):
    """The bytes of a request are no image that can be read."""


async def image_of(request: Request) -> bytes:
    """The image file that a request carries: its body, or the file `image` of a form."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=1) as form:
            part = form.get("image")
            if part is None or isinstance(part, str):
                raise HTTPException(400, {"error": "the form has no file `image`"})
            data = await part.read(LARGEST + 1)
    else:
        data = b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > LARGEST:
                break
    if len(data) > LARGEST:
        raise HTTPException(413, {"error": f"an image file of more than {LARGEST >> 20} MiB"})
    if not data:
        raise HTTPException(400, {"error": "no image: send it as the body, or as the file `image` of a form"})
    return data


def decoded(data: bytes) -> Image.Image:
    """A PNG, a JPEG or what else Pillow reads. Raises BadImage."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise BadImage(f"not an image that can be read: {type(e).__name__}") from None
    return image
