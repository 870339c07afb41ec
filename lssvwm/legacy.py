"""The names of before `lssvwm`, for one release: in a checkout `import envs` gives `lssvwm.envs`, and says so once."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Same(Loader):
    """Loads a module that is there already under its new name."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # which the import system took for its own


class _Renamed(MetaPathFinder):
    """Finds OLD.x as lssvwm.OLD.x."""

    def __init__(self, old: str) -> None:
        self.old = old

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(f"{self.old}.") or name.endswith(".__main__"):
            return None
        module = importlib.import_module(f"lssvwm.{name}")
        spec = ModuleSpec(name, _Same(module), is_package=hasattr(module, "__path__"))
        spec.submodule_search_locations = list(module.__path__) if hasattr(module, "__path__") else None
        return spec


def rename(old: str) -> None:
    """Make `old`, which is being imported, and all below it the modules of `lssvwm.OLD`."""
    warnings.warn(f"import lssvwm.{old} instead of {old}: the old name goes with the next release", FutureWarning, 3)
    sys.meta_path.insert(0, _Renamed(old))
    sys.modules[old] = importlib.import_module(f"lssvwm.{old}")
