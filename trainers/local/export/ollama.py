"""`--to ollama`: writes a GGUF file and the Modelfile beside it, all that `ollama create` needs.

Ollama does not run the Jinja template in a GGUF file. It compares its text with some twenty templates that it knows and
takes the nearest within an edit distance of 100, else sends the prompt without any template (Named and DefaultTemplate
in its template/template.go): a nearly right one would make the model worse without anybody noticing. So the Modelfile
gets a template of its own. What a chat template writes is nearly always fixed text between the messages, which depends
on the roles before and after. These texts are taken from chats with marked messages, and then other chats are written
with both templates. Where one of them differs, the export is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from trainers.local.export import gguf
from trainers.local.export.gguf import plan as plan
from trainers.local.export.order import PreparedExport, Say, WrittenExport
from trainers.local.export.output import ExportRefused
from trainers.local.tool_calls import render_chat
from trainers.local.training.base_model import load_tokenizer

Role = Literal["start", "system", "user", "assistant", "end"]
Chat = Sequence[tuple[Role, str]]
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


def write(work: PreparedExport, folder: Path, say: Say) -> WrittenExport:
    tokenizer = load_tokenizer(str(work.base.folder))
    template = read_chat_template(tokenizer, strip_bos=gguf.template_writes_bos(tokenizer))
    file, checks, loaded = gguf.write_file(work, folder, say)
    context = context_size(
        int(loaded.model.config.get_text_config().max_position_embeddings),
        work.source.job.settings.max_length,
    )
    stops = [loaded.tokenizer.decode([token]) for token in loaded.end_tokens]
    text = modelfile(file, template, stops, context, work.questions.system)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    usage = f"In this folder:\n\n```\nollama create {work.name} -f Modelfile\nollama run {work.name}\n```"
    templates = (
        "the Modelfile's template writes the same chats as the model's own, on four that were compared"
    )
    return WrittenExport([templates, *checks], usage)


def modelfile(
    file: Path, template: ChatTemplate, stops: Sequence[str], context: int, system: str | None
) -> str:
    """The temperature is 0, as the model was measured. Raises ExportRefused where the system prompt can't be quoted."""
    # A Modelfile knows no escapes, only three quotation marks around a text.
    if system is not None and ('"""' in system or system.endswith('"')):
        raise ExportRefused(
            "The rows' system prompt has quotation marks that a Modelfile can't hold. Export with --to gguf, and set "
            "the system prompt where the model is called."
        )
    lines = [f"FROM ./{file.name}", f'TEMPLATE """{template.in_go()}"""', "PARAMETER temperature 0"]
    lines += [f"PARAMETER num_ctx {context}", *(f'PARAMETER stop "{stop}"' for stop in stops)]
    if system is not None:
        lines.append(f'SYSTEM """{system}"""')
    return "\n".join(lines) + "\n"


def context_size(most: int, trained: int) -> int:
    """Returns how many tokens prompt and answer may have: as many as the rows had, and at least Ollama's usual context
    where the model has it."""
    return min(most, max(trained, USUAL_CONTEXT))


@dataclass(frozen=True)
class ChatTemplate:
    """`between[a, b]` is the text between a message of role a and one of role b; 'start' and 'end' are the chat's.
    `system_before` is for models whose system message has no turn of its own and stands inside the last question, with
    this text after it; None for all others."""

    between: Mapping[tuple[Role, Role], str]
    system_before: str | None

    def render(self, chat: Chat) -> str:
        """Returns the chat's text up to where the model answers."""
        system = "\n\n".join(text for role, text in chat if role == "system")
        turns = [turn for turn in chat if self.system_before is None or turn[0] != "system"]
        text, last = "", "start"
        for number, (role, content) in enumerate(turns, start=1):
            text += self.between.get((last, role), "")  # type: ignore[arg-type]
            if self.system_before is not None and system and number == len(turns):
                text += system + self.system_before
            text, last = text + content, role
        return text + self.between[last, "end"]  # type: ignore[index]

    def in_go(self) -> str:
        """Returns the text for Ollama's TEMPLATE."""
        roles: tuple[Role, ...] = ("system", "user", "assistant")
        written = [role for role in roles if any(after == role for _, after in self.between)]
        inside = "".join(self._turn(role) for role in written)
        end = _chosen([(before, text) for (before, after), text in self.between.items() if after == "end"])
        return f'{{{{- $last := "start" }}}}{{{{ range $i, $m := .Messages }}}}{inside}{{{{ end }}}}{end}'

    def _turn(self, role: Role) -> str:
        joint = _chosen([(before, text) for (before, after), text in self.between.items() if after == role])
        system = ""
        if self.system_before is not None:
            system = (
                "{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}"
                f"{{{{ $.System }}}}{_literal(self.system_before)}{{{{ end }}}}"
            )
        return f'{{{{ if eq .Role "{role}" }}}}{joint}{system}{{{{ .Content }}}}{{{{ $last = "{role}" }}}}{{{{ end }}}}'


def _chosen(texts: Sequence[tuple[Role, str]]) -> str:
    """Chooses among texts by the role before."""
    if len({text for _, text in texts}) == 1:
        return _literal(texts[0][1])
    cases = [f'{{{{ if eq $last "{before}" }}}}{_literal(text)}{{{{ end }}}}' for before, text in texts]
    return "".join(cases)


def _literal(text: str) -> str:
    """Quotes a text as an action, so that nothing in it is read as a template and no white space is lost."""
    if not text:
        return ""
    escapes = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"})
    return f'{{{{ "{text.translate(escapes)}" }}}}'


def read_chat_template(tokenizer: Any, strip_bos: bool) -> ChatTemplate:
    """`strip_bos`: the program puts the beginning token in front by itself. Raises ExportRefused."""
    for template in (_read_turns_template(tokenizer), _read_template_without_system(tokenizer)):
        if template is not None and _writes_the_same(template, tokenizer):
            if not strip_bos:
                return template
            between = {
                joint: text.removeprefix(tokenizer.bos_token) if joint[0] == "start" else text
                for joint, text in template.between.items()
            }
            return ChatTemplate(between, template.system_before)
    raise ExportRefused(
        "This model's chat template can't be written as a template of Ollama: chats written with both differ. Export "
        "it with --to gguf and serve that with llama.cpp's server, which reads the model's own template from the file."
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
    return ChatTemplate(between, None) if between else None


def _read_template_without_system(tokenizer: Any) -> ChatTemplate | None:
    """Reads a template such as Mistral's, which puts the system message in front of the last question."""
    turns = _read_turns(tokenizer, ("user", "assistant", "user"))
    with_system = _read_turns(tokenizer, ("system", "user"))
    if turns is None or with_system is None:
        return None
    return ChatTemplate(dict(turns), with_system[1][1])


def _read_turns(tokenizer: Any, roles: Sequence[Role]) -> list[tuple[tuple[Role, Role], str]] | None:
    """Returns the texts around marked messages, by the roles before and after; None where the template does not write
    each message once and in order."""
    marks = [f"MARK{number}MARK" for number in range(len(roles))]
    try:
        text = render_with_template(tokenizer, list(zip(roles, marks, strict=True)))
    except TemplateError:
        return None
    parts = re.split(r"MARK\d+MARK", text)
    if re.findall(r"MARK\d+MARK", text) != marks:
        return None
    path: list[Role] = ["start", *roles, "end"]
    return list(zip(pairwise(path), parts, strict=True))


def _writes_the_same(template: ChatTemplate, tokenizer: Any) -> bool:
    for chat in PROOFS:
        try:
            expected = render_with_template(tokenizer, chat)
        except TemplateError:  # a model without system messages, as Gemma 2
            continue
        if template.render(chat) != expected:
            return False
    return True
