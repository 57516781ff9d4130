"""Chat templates of the families' kinds: the same text and the same tokens as Transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DynoError
from engine.models.chat import ChatMessage
from engine.models.tokenizer import Tokenizer
from tests.conftest import write_tokenizer

transformers = pytest.importorskip("transformers")

# Written for these tests in the manner of each family: its marks, its rules, the parts of Jinja that it needs.
TEMPLATES = {
    "chatml": """\
{%- if messages[0]['role'] == 'system' -%}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else -%}
    {{- '<|im_start|>system\nYou are useful.<|im_end|>\n' }}
{%- endif -%}
{%- for message in messages %}
    {%- if message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
""",
    "llama3": """\
{{- bos_token }}
{%- if not tools is defined %}{% set tools = none %}{% endif %}
{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set said = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set said = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\n' }}{%- endif %}
{{- 'Today Date: ' + today + '\n\n' + said + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "mistral": """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{% set first, rest = messages[0]['content'], messages[1:] %}
{%- else %}{% set first, rest = '', messages %}{% endif %}
{%- for message in rest %}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Turns must go from user to assistant and back') }}
  {%- endif %}
  {%- if message['role'] == 'user' %}
    {{- '[INST] ' + (first + '\n\n' if loop.last and first else '') + message['content'] + ' [/INST]' }}
  {%- else %}
    {{- ' ' + message['content'] + eos_token }}
  {%- endif %}
{%- endfor %}
""",
    "phi3": """\
{% for message in messages %}{% if message['role'] in ['system', 'user', 'assistant'] %}\
{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "gemma": """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('There is no system role') }}{% endif %}
{%- for message in messages %}
    {%- set name = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + name + '\n' }}
    {%- if message['content'] is string %}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable %}
        {%- for part in message['content'] %}{{ part['text'] | trim }}{% endfor %}
    {%- endif %}
    {{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
""",
    "qwen3": """\
{%- set seen = namespace(last=messages|length - 1, open=true) %}
{%- for message in messages[::-1] %}
    {%- if seen.open and message.role == 'user' %}
        {%- set seen.last = messages|length - 1 - loop.index0 %}
        {%- set seen.open = false %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set said = message.content %}
    {%- if message.role == 'assistant' and '</think>' in said and loop.index0 < seen.last %}
        {%- set said = said.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ said ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
""",
    "smollm3": """\
{%- if tools is not none and tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for message in messages -%}
    {%- if message.role == "assistant" %}
{% generation %}
{{ "<|im_start|>assistant\n" + message.content + "<|im_end|>\n" }}
{% endgeneration %}
    {%- else %}
{{ "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}
""",
    "names and json": """\
{{ bos_token is defined }} {{ pad_token is defined }} {{ sep_token is defined }} {{ tools is none }}
{{ documents is none }}
{{ messages | tojson }} {{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true, indent=2) }}
{% for message in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ message.content | upper }}{% endfor %}
""",
}
SYSTEM = ChatMessage("system", "Answer briefly. ")
USER, MORE = ChatMessage("user", " What floats, and «why»?\n"), ChatMessage("user", "And a stone?")
REPLY = ChatMessage("assistant", "<think>\nBoats.\n</think>\n\nBoats do: they are light. ")
TALKS = {"one": [USER], "told": [SYSTEM, USER], "three": [USER, REPLY, MORE], "four": [SYSTEM, USER, REPLY, MORE]}
MARKS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
         "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "[INST]", "[/INST]"]


def write_chat(folder: Path, template: str, **settings: Any) -> Path:
    """A tokenizer with the families' marks as special tokens, and a chat template."""
    from tokenizers import Tokenizer as Backend

    write_tokenizer(folder, adds_bos=True)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(MARKS)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"} | settings),
        encoding="utf-8")
    return folder


def same(ours: Tokenizer, theirs: Any, talk: list[ChatMessage], answering: bool) -> bool:
    """Whether both render the same text, or both refuse; and the same ids where the assistant's turn is next."""
    plain = [{"role": m.role, "content": m.content} for m in talk]
    try:
        expected = theirs.apply_chat_template(plain, tokenize=False, add_generation_prompt=answering)
    except Exception:
        with pytest.raises(DynoError, match="chat template refuses"):
            ours.chat_text(talk, answering)
        return False
    assert ours.chat_text(talk, answering) == expected
    if answering:
        ids = theirs.apply_chat_template(plain, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert ours.render_chat(talk) == list(ids)
    return True


@pytest.mark.parametrize("answering", [True, False])
@pytest.mark.parametrize("name", list(TEMPLATES))
def test_templates_render_as_transformers_renders_them(name: str, answering: bool, tmp_path: Path) -> None:
    folder = write_chat(tmp_path, TEMPLATES[name])
    ours, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    rendered = [same(ours, theirs, talk, answering) for talk in TALKS.values()]
    assert rendered == [True, name != "gemma", True, name != "gemma"], "one of them knows no system role"


def test_tokens_named_in_the_older_file_are_known_to_the_template(tmp_path: Path) -> None:
    folder = write_chat(tmp_path, TEMPLATES["names and json"], pad_token=None)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<s>"}, "bos_token": "<s>"}),
                                                    encoding="utf-8")
    assert "True True False" in Tokenizer.from_folder(folder).chat_text([USER], True)


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    folder = write_chat(tmp_path, "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(DynoError, match="chat template refuses"):
        Tokenizer.from_folder(folder).chat_text([USER], True)
