"""LLaVolta's training stages: plain LLaVA-1.5 files whose config says `grouping`.

Average pooling has no parameters, and its layer and stride stand on the released code's command
line, not in the config: whoever runs it says them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from harness.model.convert.layout import MethodLayout, Source, Target
from harness.model.convert.parts import expect


class LLaVoltaLayout(MethodLayout):
    """A dense LLaVA-1.5; nothing beside it."""

    name: ClassVar[str] = "LLaVolta"

    def claims(self, source: Source) -> bool:
        return "grouping" in source.config

    def dense(self, source: Source) -> Source:
        # Others have a `visual_plugin` with parameters, which the released forward never calls.
        expect(source, "grouping", ("avgpool1d", "none"))
        return source.with_config(grouping=None)

    def wrapped(self, source: Source, target: Target) -> Target:
        note = (
            "layer and stride of its pooling are not in its files: say them as in "
            "--methods llavolta:k=2:stride=8"
        )
        return replace(target, notes=[*target.notes, note])
