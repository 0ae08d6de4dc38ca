"""Attention masks in the form each backend wants; None wherever the fast causal kernel is right."""

from __future__ import annotations

import torch
from torch import Tensor


def to_backend(allowed: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """A [B, 1, q, k] bool mask (True = may look) as the backend takes it."""
    if kind == "sdpa":
        return allowed
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.finfo(dtype).min)


def allowed_from(mask: Tensor) -> Tensor:
    """Bool form of a user's 4-D mask: boolean as it stands, additive where it is not negative."""
    return mask if mask.dtype == torch.bool else mask >= 0


def prefill_mask(
    kind: str,
    dtype: torch.dtype,
    device: torch.device,
    length: int,
    valid: Tensor | None,
    base: Tensor | None,
) -> Tensor | None:
    """Mask of ``length`` tokens that attend to each other.

    valid  [B, length] bool, None when no column is padding.
    base   [B, 1, length, length] bool, already gathered to these tokens (packed questions);
           None for plain causal attention.

    A padded query may look at itself, so that no row is empty (an empty row is NaN in some
    kernels); nothing looks at a padded key.
    """
    if base is None and valid is None and kind != "eager":
        return None
    if kind == "flash":
        if base is not None:
            raise ValueError("flash attention takes no block mask")
        return valid
    if base is not None:
        allowed = base
    else:
        allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    if valid is not None:
        own = torch.eye(length, dtype=torch.bool, device=device)
        allowed = (allowed & valid[:, None, None, :]) | own
    return to_backend(allowed, kind, dtype)


def borders(kind: str, position_ids: Tensor | None) -> Tensor | None:
    """Position ids [B or 1, n] for stock layers, None where they only cost.

    Flash attention takes gaps in the ids of a single row for borders of packed sequences, and asks
    the device for them in every layer; here it is asked once.
    """
    if kind != "flash" or position_ids is None or position_ids.shape[0] > 1:
        return position_ids
    return position_ids if bool((position_ids.diff(dim=-1) != 1).any()) else None


def step_mask(
    kind: str,
    dtype: torch.dtype,
    device: torch.device,
    keys: Tensor | None,
    length: int,
    queries: int,
) -> Tensor | None:
    """Mask of ``queries`` new tokens over a cache; the new tokens are its last columns.

    keys    [B, length] bool, key columns that hold a token (new ones included); None = all.
    """
    if queries == 1 or kind == "flash":
        if keys is None or kind == "flash":
            return keys
        return to_backend(keys[:, None, None, :], kind, dtype)
    rows = torch.arange(queries, device=device)[:, None] + (length - queries)
    columns = torch.arange(length, device=device)[None, :]
    allowed = (columns <= rows)[None, None]
    if keys is not None:
        allowed = (allowed & keys[:, None, None, :]) | (columns == rows)
    return to_backend(allowed, kind, dtype)
