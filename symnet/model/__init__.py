"""Sym-Net: `SymNet` is the public door; the parts are one idea a file."""

from symnet.model.symnet import Correlations, Output, SymNet

__all__ = ["Correlations", "Output", "SymNet"]
