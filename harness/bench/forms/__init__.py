"""The forms in which lmms-eval asks a model, one file each. Torch-free.

A task's ``output_type`` says its form. lmms-eval sends the requests of a form to a method of the
model class, which hands them to the form here.
"""

from __future__ import annotations

from harness.bench.forms.converse import CONVERSE
from harness.bench.forms.form import Form as Form
from harness.bench.forms.generate import GENERATE
from harness.bench.forms.score import SCORE

FORMS: dict[str, Form] = {
    output_type: form for form in (GENERATE, SCORE, CONVERSE) for output_type in form.output_types
}
"""By the ``output_type`` of a task."""
