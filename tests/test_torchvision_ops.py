"""torchvision imports beside any torch, and working operators are left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.common.roots import ROOT


def run(code: str) -> str:
    """Standard output of a fresh interpreter: declarations last as long as the process."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow  # as every test that imports an image processor
def test_torchvision_and_image_processors_import() -> None:
    out = run(
        "from harness.common.torchvision_ops import declare_missing_ops as declare\n"
        "declared = declare()\n"
        "assert declare() == declared\n"
        "import torch, torchvision\n"
        "from torchvision.transforms import v2\n"
        "from transformers import CLIPImageProcessor, LlavaConfig\n"
        "print(declared, torchvision.extension._has_ops())"
    )
    assert out.split() in (["True", "False"], ["False", "True"])


def test_existing_operators_are_left_alone() -> None:
    run(
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "library.impl('nms', lambda dets, scores, iou: scores + 1, 'CPU')\n"
        "from harness.common.torchvision_ops import declare_missing_ops\n"
        "assert not declare_missing_ops()\n"
        "one = torch.ones(1)\n"
        "assert torch.ops.torchvision.nms(torch.ones(1, 4), one, 0.5).item() == 2"
    )


def test_without_torchvision_nothing_happens() -> None:
    run(
        "import sys; sys.modules['torchvision'] = None\n"
        "from harness.common.torchvision_ops import declare_missing_ops\n"
        "assert not declare_missing_ops() and 'torch' not in sys.modules"
    )
