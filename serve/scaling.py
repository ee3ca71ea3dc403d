"""A name that config files of earlier releases contain, for `serve deploy`."""

from serve.monitoring.autoscaling import Backlog

__all__ = ["Backlog"]
