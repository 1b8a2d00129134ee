"""The CLIP loss of each pair within one batch: log-sum-exp over rows and columns of the similarity matrix.

The matrix is never whole: a block of rows at a time, with running column maxima and sums.  0.05 GFLOP a
pair for a batch of 32,768 pairs of width 768; memory is the batch in float32 and three blocks.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._products import Matrix, fixed

if TYPE_CHECKING:
    import torch

ROWS = {"cpu": 512, "cuda": 8192}
"""Rows of one block: 64 MB, 1 GB on a GPU, for a batch of 32,768."""


def neg_clip_losses(
    images: Matrix, texts: Matrix, temperature: float, weight: float, device: "torch.device"
) -> NDArray[np.float64]:
    """float64[n]: cos − ½T·log Σ_text e^{cos/T} − ½T·log Σ_image e^{cos/T} of each pair of a batch.

    ``images`` and ``texts`` float32[n, d], row by row a pair; ``cos`` is their product as they are.
    ``weight`` counts every negative that often (1 in the formula above).
    """
    import torch

    with fixed():
        image, text = (torch.from_numpy(part).to(device) for part in (images, texts))
        own = (image * text).sum(dim=1) / temperature
        by_text = torch.empty_like(own)
        greatest = torch.full_like(own, -np.inf)
        total = torch.zeros(len(own), dtype=torch.float64, device=device)
        for start in range(0, len(image), ROWS[device.type]):
            block = image[start : start + ROWS[device.type]] @ text.T
            block /= temperature
            by_text[start : start + len(block)] = block.logsumexp(dim=1)
            higher = torch.maximum(greatest, block.amax(dim=0))
            total *= (greatest - higher).double().exp()
            block -= higher
            total += block.exp_().sum(dim=0, dtype=torch.float64)
            greatest = higher
        by_image = greatest.double() + total.log()
        own, by_text = own.double(), by_text.double()
        sums = sum(_weighted(one, own, weight) for one in (by_text, by_image))
        return np.asarray((temperature * (own - 0.5 * sums)).cpu().numpy())


def _weighted(log_sum: "torch.Tensor", own: "torch.Tensor", weight: float) -> "torch.Tensor":
    """The log of (e^own + weight · the rest of the sum)."""
    import torch

    share = (own - log_sum).clamp(max=0).exp()  # of the pair itself; rounding may put it above 1
    return log_sum + torch.log(weight + (1 - weight) * share)
