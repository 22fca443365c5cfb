"""A game as a chat, in token ids: what a model reads before its first message, and between two of its messages.

The tokenizer's chat template is read once, by rendering sentinels and looking at what stands between them. From then on a
prompt is fixed ids, the ids of the text that was heard, fixed ids; what the model sampled is never decoded and encoded again.
Heard text never becomes a special token. Owns no state of any game.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer

from sparring.rollout.errors import RolloutError
from sparring.scenarios.family import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GUARD = "\ufdd0"
"""A noncharacter that stands for "a special token came before" when plain text is encoded alone; stripped from all text."""

SILENCE = "(silence)"
"""What a seat reads where nothing was said since its last message."""

_USERS = ("xUserOnex", "xUserTwox", "xUserThreex")
_ANSWERS = ("xAnswerOnex", "xAnswerTwox")
_THOUGHT = "<think>\nxThoughtx\n</think>\n\nxAnswerOnex"
_PROBES = ("Talk prices from 0 to 99.\nbuyer: 40?", "7", "¿Ünï 你好 🙂?", "(a) `b` <c>, D: e = f")


@dataclass(frozen=True)
class Frame:
    """What stands around one text that is encoded on its own: `head` ids, `lead` + text + `tail`, `rest` ids.

    `head` ends and `rest` begins with a special token, across which a tokenizer never merges, so the pieces' ids are the
    whole's ids.
    """

    head: tuple[int, ...]
    lead: str
    tail: str
    rest: tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """A chat template as text: opening, user text, `prompt`, answer, `close`, user text, `next_prompt`, answer, `close`, ..."""

    opening: str
    prompt: str
    close: str
    next_prompt: str


def keeps_prefix(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> bool:
    """Whether rendering a longer chat repeats the shorter one unchanged, hidden reasoning included.

    Only then may one growing list of ids stand for the whole game.
    """
    try:
        _read_template(tokenizer, template)
    except RolloutError:
        return False
    return True


class ChatFormat:
    """A tokenizer's chat template as three operations on ids: `opening`, `reply`, `decode`.

    Example:
        >>> chat = ChatFormat(tokenizer)
        >>> ids = chat.opening("You sell a car.", [])  # <|im_start|>user, You sell a car.<|im_end|>, <|im_start|>assistant
        >>> ids += sampled  # I say 60.<|im_end|>
        >>> ids += chat.reply([Message("buyer", "40?")], finished=True)  # <|im_start|>user, buyer: 40?<|im_end|>, ...
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        """`template` replaces the tokenizer's own chat template.

        Raises `RolloutError` for a tokenizer that is not a fast one, and for a template that does not keep the prefix property
        or does not end an answer with a special token.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise RolloutError(f"{type(tokenizer).__name__} is not a fast tokenizer: load one with a tokenizer.json")
        self._backend: Tokenizer = backend
        self._added = {token_id: added.content for token_id, added in backend.get_added_tokens_decoder().items()}
        self._plain, self._definition = _without_added_tokens(backend)
        text = _read_template(tokenizer, template)
        self.turn_end, self._opening, self._reply = self._frames(text)
        eos = tokenizer.eos_token_id
        self.stop_ids = (self.turn_end,) if eos is None or eos == self.turn_end else (self.turn_end, int(eos))
        self.fingerprint = hashlib.sha256((self._definition + repr(text)).encode()).hexdigest()[:16]
        self._check(text)

    def opening(self, instructions: str, heard: Sequence[Message]) -> list[int]:
        """The ids before the first answer: one user message with the instructions and a line for each message heard so far."""
        lines = "\n".join((instructions, *map(line, heard)))
        return self._encode(self._opening, lines)

    def reply(self, heard: Sequence[Message], finished: bool) -> list[int]:
        """The ids between an answer and the next: what closes the answer, the user message, the next prompt.

        `finished` says that the sampled ids ended with `turn_end`, which is then not repeated.
        """
        ids = self._encode(self._reply, "\n".join(map(line, heard)) or SILENCE)
        return ids if finished else [self.turn_end, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, special tokens left out."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def answer(self, text: str) -> list[int]:
        """The ids of an answer written by someone else (a script that is imitated), with the id that ends it."""
        return [*self._text_ids(text), self.turn_end]

    def _encode(self, frame: Frame, text: str) -> list[int]:
        clean = text.encode("utf-8", "replace").decode().replace(GUARD, "").strip()
        text_ids = self._text_ids(frame.lead + clean + frame.tail, first=not frame.head and frame is self._opening)
        return [*frame.head, *text_ids, *frame.rest]

    def _text_ids(self, text: str, *, first: bool = False) -> list[int]:
        """Ids of plain text after a special token, or at the very beginning."""
        if first:
            return self._plain.encode(text, add_special_tokens=False).ids
        return self._plain.encode(GUARD + text, add_special_tokens=False).ids[1:]

    def _frames(self, text: Template) -> tuple[int, Frame, Frame]:
        """The id that ends an answer, the frame of the opening and the frame of a reply after that id."""
        close = self._backend.encode(text.close, add_special_tokens=False)
        marks = [i for i, token_id in enumerate(close.ids) if token_id in self._added]
        if not marks or text.close[: close.offsets[marks[0]][0]].strip():
            raise RolloutError("the chat template ends an answer with no special token: pass ChatFormat a template that does")
        first, last = marks[0], marks[-1]
        lead = text.close[close.offsets[last][1] :]
        reply = self._frame(tuple(close.ids[first + 1 : last + 1]), lead, text.next_prompt)
        opening = self._backend.encode(text.opening, add_special_tokens=False)
        marks = [i for i, token_id in enumerate(opening.ids) if token_id in self._added]
        head = tuple(opening.ids[: marks[-1] + 1]) if marks else ()
        lead = text.opening[opening.offsets[marks[-1]][1] :] if marks else text.opening
        return close.ids[first], self._frame(head, lead, text.prompt), reply

    def _frame(self, head: tuple[int, ...], lead: str, prompt: str) -> Frame:
        """Splits the prompt after a user text at its first special token."""
        rest = self._backend.encode(prompt, add_special_tokens=False)
        mark = next((i for i, token_id in enumerate(rest.ids) if token_id in self._added), None)
        if mark is None:
            return Frame(head, lead, prompt, ())
        return Frame(head, lead, prompt[: rest.offsets[mark][0]], tuple(rest.ids[mark:]))

    def _check(self, text: Template) -> None:
        """Pieces must encode to the whole's ids, and the text of a special token must stay text."""
        end = self._added[self.turn_end]
        close = text.close[text.close.index(end) :] if end in text.close else text.close
        for probe in _PROBES:
            opening = self._backend.encode(text.opening + probe + text.prompt, add_special_tokens=False).ids
            reply = self._backend.encode(close + probe + text.next_prompt, add_special_tokens=False).ids
            if self._encode(self._opening, probe) != opening or [self.turn_end, *self._encode(self._reply, probe)] != reply:
                raise RolloutError(f"the tokenizer merges {probe!r} with the text around it: pass ChatFormat another template")
        special = {i: added.content for i, added in self._backend.get_added_tokens_decoder().items() if added.special}
        for content in special.values():
            if special.keys() & set(self._text_ids(f"{content} a{content}b")):
                raise RolloutError(f"the tokenizer reads the plain text {content!r} as a special token: use another tokenizer")


def line(message: Message) -> str:
    """A message as models read it."""
    return f"{message.author}: {message.text}"


def _without_added_tokens(backend: Tokenizer) -> tuple[Tokenizer, str]:
    """The tokenizer as it reads text that must stay text (and `GUARD`), and the canonical definition of the original."""
    definition: dict[str, Any] = json.loads(backend.to_str())
    definition["truncation"] = definition["padding"] = None
    canonical = json.dumps(definition, sort_keys=True)
    definition["added_tokens"], definition["post_processor"] = [], None
    plain = Tokenizer.from_str(json.dumps(definition))
    plain.add_special_tokens([AddedToken(GUARD, special=True, normalized=False)])
    return plain, canonical


def _read_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> Template:
    """The template's fixed texts. Raises `RolloutError` where a longer chat does not repeat the shorter one."""
    if template is None and not tokenizer.chat_template:
        raise RolloutError(f"{type(tokenizer).__name__} has no chat template: pass ChatFormat one")

    def render(*contents: str) -> str:
        chat = [{"role": "assistant" if i % 2 else "user", "content": content} for i, content in enumerate(contents)]
        try:
            text = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise RolloutError(f"the chat template does not render: {error}; pass ChatFormat another one") from error
        assert isinstance(text, str)
        return text

    (one, two, three), (first, second) = _USERS, _ANSWERS
    short, long = render(one), render(one, first, two)
    opening, *prompts = short.split(one)
    if len(prompts) != 1 or not long.startswith(short):
        raise _breaks("an earlier turn is rendered differently once the chat goes on")
    gap, *closes = long[len(short) :].split(first)
    if len(closes) != 1 or gap.strip():
        raise _breaks(f"an earlier answer is preceded by {gap!r}, which the generation prompt does not hold")
    close, *nexts = closes[0].split(two)
    if len(nexts) != 1 or render(one, first, two, second, three) != long + gap + second + close + three + nexts[0]:
        raise _breaks("turns are not all rendered alike")
    if render(one, _THOUGHT, two) != short + gap + _THOUGHT + close + two + nexts[0]:
        raise _breaks("hidden reasoning (<think>...</think>) of an earlier answer is dropped")
    return Template(opening, prompts[0], close, nexts[0])


def _breaks(what: str) -> RolloutError:
    return RolloutError(
        f"the chat template does not keep the prefix: {what}. Pass ChatFormat a template that repeats earlier turns unchanged, "
        "or split each game into one sample a turn"
    )
