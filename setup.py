"""The one step of a build that pyproject.toml cannot say: the shipped data ride in the wheel.

They lie at the top of a checkout, where people look for them, and inside a package once installed:
`harness.common.roots` finds them in either place.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = ("assets", "recipes", "suites")


class WithData(build_py):
    """`build_py` that also copies the data folders to `modsuite/data`."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable install finds them in the checkout
            for source, target in self._data().items():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self._data().values())]

    def _data(self) -> dict[Path, Path]:
        files = [p for name in DATA for p in sorted(Path(name).rglob("*")) if p.is_file()]
        return {path: Path(self.build_lib, "modsuite", "data", path) for path in files}


setup(cmdclass={"build_py": WithData})
