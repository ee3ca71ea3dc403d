"""A name that config files of earlier releases contain, for `serve deploy`."""

from serve.rayserve.service import deployed

__all__ = ["deployed"]
