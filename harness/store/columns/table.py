"""One CSV of a run directory: its columns in order, with type, unit and meaning. Torch-free.

Writers take a `Table` as the names of its columns; the report's readers take the types, and the
docs all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPES = {
    "text": "text",
    "int": "whole number",
    "float": "number",
    "flag": "0 or 1",
}


@dataclass(frozen=True)
class Column:
    """``unit`` is empty where there is none."""

    name: str
    type: str
    unit: str
    meaning: str


class Table(tuple[str, ...]):
    """The names of a file's columns, which know what they are.

    ``key``: the columns that tell one record from another.
    """

    file: str
    about: str
    key: tuple[str, ...]
    about_columns: tuple[Column, ...]

    def of_type(self, is_text: bool) -> tuple[str, ...]:
        """The columns that are text, or those that are numbers."""
        return tuple(c.name for c in self.about_columns if (c.type == "text") == is_text)


def table(file: str, about: str, key: str, *columns: str) -> Table:
    """A table from lines of ``name | type | unit | meaning``."""
    lines = "\n".join(columns).strip().splitlines()
    rows = [[part.strip() for part in line.split("|", 3)] for line in lines if line]
    found = tuple(Column(*row) for row in rows)
    made = Table(column.name for column in found)
    made.file, made.about, made.key, made.about_columns = file, about, tuple(key.split()), found
    wrong = [c.name for c in found if c.type not in TYPES or not c.meaning]
    assert not wrong and len(set(made)) == len(made) and set(made.key) <= set(made), (file, wrong)
    return made


CELL_LINES = """
cell_id | text | | hash over everything that can change the cell's numbers
model | text | | the model's name
method | text | | the method's name
params | text | | its parameters, JSON with sorted keys
label | text | | name and parameters as shown; those at their default are left out
bench | text | | the benchmark; the workload of a timed cell
"""
DELTA_LINES = """
delta_ci_low | float | metric's | 95 % interval of `delta`: bootstrap, clustered by image
delta_ci_high | float | metric's | its upper end
p_value | float | | of the paired test
p_adjusted | float | | after Holm's correction
"""
CELL = table("", "What names a cell.", "cell_id", CELL_LINES)
