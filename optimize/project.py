"""A budgets file, read once for a whole command, and the registry that it names."""

from pathlib import Path

from msgspec import Struct

from optimize.budgets import Budgets, load
from optimize.registry import Registry, location


class Project(Struct, frozen=True):
    """The models of one budgets file; their paths are relative to its folder."""

    path: Path
    budgets: Budgets
    registry: Registry

    @property
    def base(self) -> Path:
        """The folder of the budgets file."""
        return self.path.parent.absolute()


def read(budgets_path: Path) -> Project:
    """Read a budgets file.

    Raises:
        UserError: It cannot be used.
    """
    budgets = load(budgets_path)
    return Project(budgets_path, budgets, Registry(location(budgets_path, budgets)))
