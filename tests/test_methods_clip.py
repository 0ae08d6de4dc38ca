"""A CLIP model as a method's checkpoint: long texts, pooled frames, what it is refused for."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch

from harness.common.errors import UsageError
from harness.jobs.resolve import checkpoint_hashes
from harness.model.checkpoints import CheckpointError, load_checkpoint
from harness.model.clip import load_clip
from methods import parse
from tests.routing_tools import ROWS
from tests.similarity_tools import kept, run
from tests.tiny import batch, tiny_llava, vision_config


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A tiny CLIP model on disk, of the tiny towers' shape, with a tokenizer of letters."""
    import transformers as t

    vision = vision_config().to_dict()
    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "projection_dim": 8}
    config = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    torch.manual_seed(0)
    t.CLIPModel(config).save_pretrained(tmp_path / "clip")
    letters = {"<s>": 0, "</s>": 1} | {c: i + 2 for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="<s>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    t.PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_clip_reads_long_texts_in_chunks_and_pools_frames_as_clip_does(clip_folder: Path) -> None:
    import transformers as t

    model = tiny_llava()
    clip, whole = load_clip(clip_folder, model), t.CLIPModel.from_pretrained(clip_folder)
    short, long = clip.text(["ab", "abcdefghij" * 10])
    assert (tuple(short.shape), tuple(long.shape)) == ((1, 8), (2, 8))
    with torch.no_grad():
        alone = whole.get_text_features(torch.tensor([[0, 2, 3, 1]])).pooler_output
        torch.testing.assert_close(short, alone)
        pixels = torch.randn(1, 3, 16, 16)
        tower = whole.vision_model(pixels, output_hidden_states=True)
        torch.testing.assert_close(
            clip.frame(tower.hidden_states[-2][0]),
            whole.get_image_features(pixels).pooler_output[0],
        )


def test_a_clip_folder_is_the_checkpoint_of_a_method_that_reads_it(clip_folder: Path) -> None:
    model, method = tiny_llava(), parse("cdpruner:keep=200")
    loaded = load_checkpoint(clip_folder, model, method)
    assert loaded.method == method
    inputs = batch(model, ROWS)
    _, records = run(model, inputs, method.spec, ["a", "b", "c", "d"], clip=loaded.clip)
    assert [len(kept(r)) for r in records] == [6, 0, 12, 6]
    everything = {path.name for path in clip_folder.iterdir()}  # the tokenizer's files as well
    assert set(checkpoint_hashes(clip_folder)) == everything >= {"tokenizer.json"}
    with pytest.raises(CheckpointError, match="is a CLIP model, which dense does not read"):
        load_checkpoint(clip_folder, model, parse("dense"))
    model.config.vision_config.hidden_size = 32
    with pytest.raises(UsageError, match="not the CLIP model of this vision tower: its hidden_s"):
        load_checkpoint(clip_folder, model, method)


# --- MMTok
