"""Tensors on disk: models and training states, as safetensors with provenance and a sha256 of the content.

A training state's folder holds two checkpoints, `step-00000400.safetensors` and the one before. A new one is written whole and read
back before older ones go, so that a kill in between leaves one more until the next; `load_latest` passes over a damaged one.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from symnet.artifacts import Provenance, canonical, check_seal, parse_provenance, replacing, sealed
from symnet.errors import UserError, one_line

KEPT = 2


def tensors_digest(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """sha256 over names, types, shapes and bytes, in order of names, and over `meta`."""
    total = hashlib.sha256(canonical(meta).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], provenance: Provenance) -> Provenance:
    """Write tensors and JSON-able `meta` whole or not at all. Returns the provenance with the content's sum."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    stamped = sealed(provenance, tensors_digest(plain, meta))
    with replacing(path) as partial:
        # one entry: safetensors writes several in random order, and the same work has to give the same bytes
        # not `save_file`: a kill would leave a file of its own naming, which nobody clears away
        partial.write_bytes(save(plain, {"symnet": canonical({"provenance": stamped.model_dump(), "meta": meta})}))
    return stamped


def load_tensors(path: Path, stage: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any], Provenance]:
    """Read and check tensors, `meta` and provenance. Raises `UserError` naming the file and what is wrong with it."""
    if not path.is_file():
        raise UserError(f"{path}: not found")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["symnet"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        meta, found = header["meta"], header["provenance"]
        content = tensors_digest(tensors, meta)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path}: not a whole file of symnet ({one_line(error)}); delete it and run again") from None
    provenance = parse_provenance(found, path, stage)
    check_seal(path, provenance, content)
    return tensors, meta, provenance


def save_state(folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], provenance: Provenance) -> None:
    """Add a checkpoint to a training state and keep the one before. What was written is read back before others go.

    Later ones than this go too: `load_latest` passed them over, so they are damaged.
    """
    path = folder / f"step-{step:08d}.safetensors"
    save_tensors(path, tensors, {**meta, "step": step}, provenance)
    load_tensors(path, provenance.stage)
    found = sorted(folder.glob("step-*.safetensors"))
    kept = [other for other in found if other <= path][-KEPT:]
    for other in set(found) - set(kept):
        other.unlink(missing_ok=True)


def load_latest(folder: Path, stage: str, settings: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole, None where there is none. A damaged one is told and passed over.

    Raises `UserError` for a checkpoint of other settings: it would never be resumed silently.
    """
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            tensors, meta, provenance = load_tensors(path, stage)
        except UserError as error:
            warnings.warn(f"{error}; falling back to the checkpoint before", stacklevel=2)
            continue
        if provenance.settings != settings:
            made_by = provenance.settings[:12]
            raise UserError(f"{path}: made by settings {made_by}, this run has {settings[:12]}; delete {folder} to start anew")
        return tensors, meta
    return None
