"""`--to ollama`: writes a GGUF file and a Modelfile, which is all that `ollama create` needs.

Ollama does not run the Jinja template in a GGUF file. It compares the template's text with about twenty that it knows
and takes the nearest within an edit distance of 100, or sends the prompt without any template (Named and
DefaultTemplate in its template/template.go). A nearly right template would make the model worse without anybody
noticing, so the Modelfile contains the model's own. A chat template nearly always writes fixed texts between the
messages, which depend on the roles before and after. These texts are read from chats with marked messages. Then other
chats are rendered with both templates, and if any of them differs, the export is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from trainers.export_folder import ExportRefused
from trainers.local.chat_renderer import render_chat
from trainers.local.export import gguf
from trainers.local.export.gguf import plan as plan
from trainers.local.export.order import PreparedExport, Say, WrittenExport
from trainers.local.training.base_model import load_tokenizer

Role = Literal["start", "system", "user", "assistant", "end"]
Chat = Sequence[tuple[Role, str]]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")  # of messages
MARKED_CHATS: tuple[Sequence[Role], ...] = (
    ("system", "user", "assistant", "user", "assistant", "user"),
    ("user", "assistant", "user"),
)
PROOFS: tuple[Chat, ...] = (
    (("user", "Where is my parcel?"),),
    (("system", "Sort this ticket."), ("user", "My card was charged twice.")),
    (("user", "a"), ("assistant", "b"), ("user", "c d"), ("assistant", "e"), ("user", "f")),
    (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")),
)
USUAL_CONTEXT = 4096


def write(prepared: PreparedExport, folder: Path, say: Say) -> WrittenExport:
    tokenizer = load_tokenizer(str(prepared.base.folder))
    template = read_chat_template(tokenizer, strip_bos=gguf.template_writes_bos(tokenizer))
    file, checks, loaded = gguf.write_file(prepared, folder, say)
    context = context_size(
        int(loaded.model.config.get_text_config().max_position_embeddings),
        prepared.source.job.settings.max_length,
    )
    stops = [loaded.tokenizer.decode([token]) for token in loaded.end_tokens]
    text = modelfile(file, template, stops, context, prepared.questions.system)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    usage = (
        f"In this folder:\n\n```\nollama create {prepared.name} -f Modelfile\nollama run {prepared.name}\n```"
    )
    templates = "the Modelfile's template renders four chats like the model's own"
    return WrittenExport([templates, *checks], usage)


def modelfile(
    file: Path, template: ChatTemplate, stops: Sequence[str], context: int, system: str | None
) -> str:
    """Returns the Modelfile's text. The temperature is 0, as when the model was measured. Raises ExportRefused if the
    system prompt can't be quoted."""
    # A Modelfile has no escapes, only three quotation marks around a text.
    if system is not None and ('"""' in system or system.endswith('"')):
        raise ExportRefused(
            "The rows' system prompt has quotation marks that a Modelfile can't express. Export with --to gguf, and "
            "send the system prompt with each request."
        )
    lines = [
        f"FROM ./{file.name}",
        f'TEMPLATE """{template.in_go()}"""',
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {context}",
    ]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    if system is not None:
        lines.append(f'SYSTEM """{system}"""')
    return "\n".join(lines) + "\n"


def context_size(most: int, trained: int) -> int:
    """Returns how many tokens prompt and answer may have: as many as the training rows, at least Ollama's default, and
    no more than the model's `most`."""
    return min(most, max(trained, USUAL_CONTEXT))


@dataclass(frozen=True)
class ChatTemplate:
    """`between[a, b]` is the text between a message of role a and one of role b; 'start' and 'end' are those of the
    chat. `system_before` is for models whose system message has no turn of its own but is part of the last question,
    followed by this text; None for all others."""

    between: Mapping[tuple[Role, Role], str]
    system_before: str | None

    def render(self, chat: Chat) -> str:
        """Returns the chat's text up to where the answer begins."""
        turns = list(chat)
        if self.system_before is not None:
            turns = self._with_system_in_the_last(turns, self.system_before)
        text = ""
        last: Role = "start"
        for role, content in turns:
            text += self.between.get((last, role), "")
            text += content
            last = role
        return text + self.between[last, "end"]

    @staticmethod
    def _with_system_in_the_last(chat: Chat, system_before: str) -> list[tuple[Role, str]]:
        """Moves the system message to the beginning of the last turn, where these models' templates put it."""
        turns = [turn for turn in chat if turn[0] != "system"]
        system = "\n\n".join(text for role, text in chat if role == "system")
        if system and turns:
            role, content = turns[-1]
            turns[-1] = (role, system + system_before + content)
        return turns

    def in_go(self) -> str:
        """Returns the template for Ollama's TEMPLATE, which is a Go template."""
        turns = ""
        for role in ROLES:
            if self._texts_before(role):  # a model may have no turn of the system
                turns += self._turn(role)
        end = _choose(self._texts_before("end"))
        return f'{{{{- $last := "start" }}}}{{{{ range $i, $m := .Messages }}}}{turns}{{{{ end }}}}{end}'

    def _texts_before(self, role: Role) -> list[tuple[Role, str]]:
        """Returns the texts that may stand before a message of this role, each with the role before it."""
        before_role = []
        for (before, after), text in self.between.items():
            if after == role:
                before_role.append((before, text))
        return before_role

    def _turn(self, role: Role) -> str:
        joint = _choose(self._texts_before(role))
        system = ""
        if self.system_before is not None:
            system = (
                "{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}"
                f"{{{{ $.System }}}}{_literal(self.system_before)}{{{{ end }}}}"
            )
        return f'{{{{ if eq .Role "{role}" }}}}{joint}{system}{{{{ .Content }}}}{{{{ $last = "{role}" }}}}{{{{ end }}}}'


def _choose(texts: Sequence[tuple[Role, str]]) -> str:
    """Returns Go code that chooses among texts by the role before."""
    different = {text for _, text in texts}
    if len(different) == 1:
        [text] = different
        return _literal(text)
    cases = ""
    for before, text in texts:
        cases += f'{{{{ if eq $last "{before}" }}}}{_literal(text)}{{{{ end }}}}'
    return cases


def _literal(text: str) -> str:
    """Quotes a text as a Go action, so that nothing in it is parsed as a template and no white space is lost."""
    if not text:
        return ""
    escapes = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"})
    return f'{{{{ "{text.translate(escapes)}" }}}}'


def read_chat_template(tokenizer: Any, strip_bos: bool) -> ChatTemplate:
    """Reads the tokenizer's template. With `strip_bos` the bos token is left out, since the program that serves the
    file adds it. Raises ExportRefused."""
    for template in (_read_turns_template(tokenizer), _read_template_without_system(tokenizer)):
        if template is not None and _renders_the_same(template, tokenizer):
            if not strip_bos:
                return template
            between = dict(template.between)
            for joint, text in between.items():
                before, _ = joint
                if before == "start":
                    between[joint] = text.removeprefix(tokenizer.bos_token)
            return ChatTemplate(between, template.system_before)
    raise ExportRefused(
        "This model's chat template can't be expressed as one of Ollama: chats rendered with both differ. Export it "
        "with --to gguf and serve that with llama.cpp's server, which uses the model's own template from the file."
    )


def render_with_template(tokenizer: Any, chat: Chat) -> str:
    messages = [{"role": role, "content": content} for role, content in chat]
    return render_chat(tokenizer, messages, add_generation_prompt=True)


def _read_turns_template(tokenizer: Any) -> ChatTemplate | None:
    between: dict[tuple[Role, Role], str] = {}
    for roles in MARKED_CHATS:
        for joint, text in _read_turns(tokenizer, roles) or ():
            if between.setdefault(joint, text) != text:
                return None
    if not between:
        return None
    return ChatTemplate(between, None)


def _read_template_without_system(tokenizer: Any) -> ChatTemplate | None:
    """Reads a template such as Mistral's, which puts the system message before the last question."""
    turns = _read_turns(tokenizer, ("user", "assistant", "user"))
    with_system = _read_turns(tokenizer, ("system", "user"))
    if turns is None or with_system is None:
        return None
    # The texts stand before the system message, between it and the question, and after the question.
    _, (_, after_system), *_ = with_system
    return ChatTemplate(dict(turns), after_system)


def _read_turns(tokenizer: Any, roles: Sequence[Role]) -> list[tuple[tuple[Role, Role], str]] | None:
    """Returns the texts around marked messages, by the roles before and after, or None if the template doesn't write
    each message once and in order."""
    # Marks in place of messages: what stands between them in the rendered chat is the template's own text.
    marks = [f"MARK{number}MARK" for number in range(len(roles))]
    try:
        chat = list(zip(roles, marks, strict=True))
        text = render_with_template(tokenizer, chat)
    except TemplateError:
        return None
    parts = re.split(r"MARK\d+MARK", text)
    if re.findall(r"MARK\d+MARK", text) != marks:
        return None
    path: list[Role] = ["start", *roles, "end"]
    joints = pairwise(path)  # the roles before and after each text
    return list(zip(joints, parts, strict=True))


def _renders_the_same(template: ChatTemplate, tokenizer: Any) -> bool:
    for chat in PROOFS:
        try:
            expected = render_with_template(tokenizer, chat)
        except TemplateError:  # a model without system messages, like Gemma 2
            continue
        if template.render(chat) != expected:
            return False
    return True
