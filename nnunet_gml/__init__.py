"""Gossip mutual learning for nnU-Net: what happens inside one site."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("nnunet-gml")
except PackageNotFoundError:
    __version__ = "0+unknown"
