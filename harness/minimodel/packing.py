"""Pack several questions about one image into one training sequence without mixing them.

Sequence: `<s> USER: <image>...` once, then one block a question. A block sees the image prefix
and itself; its positions restart after the prefix. Each question is therefore trained exactly as
it will be asked at test time, and the image is paid for once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from harness.minimodel.attention import WINDOW, window_mask
from harness.minimodel.scenes import CAPTION, IGNORE, Scenes, caption, drills

FIRST = ("caption", "drill")


@dataclass
class Block:
    """Token ids of one question and its answer; `answer` is how many of them are the answer's."""

    ids: list[int]
    answer: int
    bench: str
    template: str = ""  # the form of the question


class PackedScenes(Dataset):
    """One item per scene: the image, as features or as pixels, and its question blocks.

    Args:
        scenes: rendered scenes.
        images: float16 [N, P, D], the tower's patch features of every scene; or the dataset of
            pixels and dense labels, where the tower is tuned too.
        tokenizer: tokenizer with an `<image>` token and a chat template.
        rows: which scenes to serve (train or held out).
        captions: put a description of the scene first. It names everything in the image, so it
            teaches reading image tokens long before single questions do (LLaVA's stage 1).
        drills: put a question first whose words name the right option ("Which option is carrot?"),
            so that answering with a letter is learned apart from seeing.
        short: share of the questions asked without the line that says how to answer. It is half of
            a question's tokens and says the same every time.
        seed: of the draw which ones are short; the same at every visit of a scene.
        longest: blocks of more tokens are left out, captions cut (`WINDOW` for packed attention).
        mark: the image's token in the prompt.
    """

    def __init__(
        self,
        scenes: Scenes,
        images: np.ndarray | Dataset,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[int],
        captions: bool = False,
        drills: bool = False,
        short: float = 0.0,
        seed: int = 0,
        longest: int | None = None,
        mark: str = "<image>",
    ) -> None:
        self.scenes, self.images, self.rows = scenes, images, rows
        self.tokenizer, self.captions, self.drills = tokenizer, captions, drills
        self.short, self.seed, self.longest = short, seed, longest
        self._before, self._after = _chat(tokenizer)
        ids = tokenizer(self._before + self._after).input_ids
        self._image = tokenizer.convert_tokens_to_ids(mark)
        self.prefix: list[int] = ids[: ids.index(self._image) + 1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, object]:
        image = self.images[self.rows[i]]
        if isinstance(image, np.ndarray):
            image = {"features": torch.from_numpy(image.astype(np.float32))}
        return {"image": image, "blocks": self.blocks(i)}

    def blocks(self, i: int) -> list[Block]:
        """The questions of item `i`, tokenised; before them its caption and drill, if wanted."""
        record = self.scenes.records[self.rows[i]]
        asked = record["qa"]
        if self.captions:
            answer = caption(record["boxes"])
            asked = [{"prompt": CAPTION, "answer": answer, "bench": "caption"}, *asked]
        if self.drills:
            asked = [*drills(record["qa"]), *asked]
        prompts = [qa["prompt"] for qa in asked]
        if self.short:
            draw = np.random.default_rng([self.seed, self.rows[i]]).random(len(prompts))
            prompts = [
                p.rpartition("\n")[0] or p if u < self.short else p
                for p, u in zip(prompts, draw, strict=True)
            ]
        # One call for all questions; the same ids as one by one.
        chats = self.tokenizer([self._before + p + self._after for p in prompts]).input_ids
        answers = [" " + qa["answer"] + self.tokenizer.eos_token for qa in asked]
        replies = self.tokenizer(answers, add_special_tokens=False).input_ids
        found = []
        for qa, chat, reply in zip(asked, chats, replies, strict=True):
            ids = chat[chat.index(self._image) + 1 :] + reply
            spare = max(0, len(ids) - (self.longest or len(ids)))
            if spare and qa["bench"] != "caption":
                continue
            # A caption is as good without its end.
            ids, length = ids[: len(ids) - spare], len(reply) - spare
            found.append(Block(ids, length, qa["bench"], qa.get("template", "")))
        return found


def _chat(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the chat template puts before and after the words of a question about an image."""
    mark = "QUESTION"
    content = [{"type": "image"}, {"type": "text", "text": mark}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    assert isinstance(text, str)
    before, _, after = text.partition(mark)
    return before, after


@dataclass
class Frame:
    """The prefix of a sequence: token ids, their positions [axes, n], and where a block starts."""

    ids: list[int]
    positions: torch.Tensor
    after: int


class Packer:
    """Collator: draws a scene's questions, packs as many as fit, pads right."""

    def __init__(
        self,
        prefix: list[int],
        image: tuple[int, int],
        pad_id: int,
        max_text: int,
        seed: int,
        fixed: bool = False,
        weights: Mapping[str, float] | None = None,
        windowed: bool = False,
    ) -> None:
        """`image`: the placeholder's id and how many of them one image takes.

        `fixed` pads every batch to the longest there can be, as a compiled model wants it.
        `weights` says how much sooner a form of question (`bench/template`) is drawn than one it
        does not name (1). `windowed` gives the masks of `harness.minimodel.attention`.
        """
        self.image = image
        self.head = prefix[:-1] + [image[0]] * image[1]
        n = len(self.head)
        self.frame = Frame(self.head, torch.arange(n)[None], n)
        self.pad_id, self.max_text = pad_id, max_text
        self.fixed, self.windowed, self.weights = fixed, windowed, dict(weights or {})
        self.rng = np.random.default_rng(seed)

    @property
    def widest(self) -> int:
        """Tokens of the longest sequence, padding included."""
        return len(self.head) + self._padded(self.max_text)

    def _padded(self, text: int) -> int:
        """Tokens that `text` tokens of questions take: whole windows, where there are any."""
        return -(-text // WINDOW) * WINDOW if self.windowed else text

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        images = self._images(items)
        head, axes = self.frame.ids, len(self.frame.positions)
        packs = [self._pick(item["blocks"]) for item in items]
        longest = max(sum(len(b.ids) for b in pack) for pack in packs)
        text = self._padded(self.max_text if self.fixed else longest)
        width, batch = len(head) + text, len(items)
        ids = torch.full((batch, width), self.pad_id)
        labels = torch.full((batch, width), IGNORE)
        positions = torch.zeros((axes, batch, width), dtype=torch.long)
        block_of = torch.full((batch, width), -1)  # 0 prefix, 1.. questions, -1 padding
        for row, pack in enumerate(packs):
            at = len(head)
            ids[row, :at] = torch.tensor(head)
            positions[:, row, :at] = self.frame.positions
            block_of[row, :at] = 0
            for number, block in enumerate(pack, start=1):
                end = at + len(block.ids)
                ids[row, at:end] = torch.tensor(block.ids)
                labels[row, end - block.answer : end] = ids[row, end - block.answer : end]
                positions[:, row, at:end] = self.frame.after + torch.arange(len(block.ids))
                block_of[row, at:end] = number
                at = end
        own = block_of[:, len(head) :]
        return {
            **images,
            "input_ids": ids,
            "labels": labels,
            "position_ids": positions if axes > 1 else positions[0],
            "attention_mask": window_mask(own) if self.windowed else block_mask(block_of),
        }

    def _images(self, items: list[dict]) -> dict[str, torch.Tensor]:
        """The images' part of the batch; one of another size changes `frame`."""
        return {k: torch.stack([item["image"][k] for item in items]) for k in items[0]["image"]}

    def _pick(self, blocks: list[Block]) -> list[Block]:
        chosen, room = [], self.max_text
        for i in self._order(blocks):
            if len(blocks[i].ids) <= room:
                chosen.append(blocks[i])
                room -= len(blocks[i].ids)
        return chosen

    def _order(self, blocks: list[Block]) -> list[int]:
        """Caption and drill, which always fit, then the questions as they are drawn."""
        if self.weights:
            drawn = np.array([self.weights.get(f"{b.bench}/{b.template}", 1.0) for b in blocks])
            # a draw without replacement, each time in proportion to the weights
            order = np.argsort(-(self.rng.random(len(blocks)) ** (1 / drawn))).tolist()
        else:
            order = list(self.rng.permutation(len(blocks)))
        order.sort(key=lambda i: blocks[i].bench not in FIRST)
        return order


@dataclass
class Probe:
    """Some items of held-out data as one batch, with the collator that packs them."""

    packer: Packer
    rows: Sequence[int]
    where: str = ""  # what is said behind a bench's name


def parted(rows: Sequence[int], windowed: bool) -> list[Sequence[int]]:
    """`rows` in runs that are measured together: all questions of a scene are 1,600 tokens.

    A full mask over twenty of them takes 5 GB in a layer, and where a method routes, no two layers
    have blocks of one size to reuse: 24 GB after ten batches.
    """
    count = 20 if windowed else 4
    return [rows[at : at + count] for at in range(0, len(rows), count)]


def block_mask(block_of: torch.Tensor) -> torch.Tensor:
    """Boolean attention mask [B, 1, n, n] (True = may attend) from block numbers [B, n].

    0 is the shared image prefix, equal numbers are one question, -1 is padding (which sees only
    itself, so that no softmax row is empty).
    """
    query, key = block_of[:, :, None], block_of[:, None, :]
    n = block_of.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    seen = causal & ((key == query) | (key == 0)) & (key >= 0) & (query >= 0)
    return (seen | torch.eye(n, dtype=torch.bool)).unsqueeze(1)
