"""A name that config files of earlier releases contain, for `serve deploy`."""

from serve.rayserve.ray_patches import add_services

__all__ = ["add_services"]
