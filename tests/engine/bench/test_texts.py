"""Texts of every kind and every kind of wrong file; tokens of a stream are those of the whole."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bench.texts import BETWEEN, open_text
from engine.bench.windows import Counted, fixed_windows, strided_windows
from engine.errors import DynoError
from engine.models.tokenizer import Tokenizer
from engine.paths import bundled_model
from tests.conftest import TEXT


def read(path: Path) -> str:
    """The whole text of a file."""
    return "".join(open_text(str(path)).pieces())


def test_the_bundled_text_is_the_default() -> None:
    assert len("".join(open_text("").pieces()).split()) > 20_000


def test_a_plain_text_is_read_as_it_is_but_for_its_mark_of_utf8(tmp_path: Path) -> None:
    text = "One\r\ntwo\nthrée 🚲" * 9000  # letters of several bytes lie across the blocks that are read
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(tmp_path / "a.txt") == text


def test_json_lines_give_texts_contents_or_turns_with_an_empty_line_between(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    lines = [{"text": "first\nline"}, {"content": "second", "id": 7}, {"messages": turns}, "bare"]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    assert read(tmp_path / "a.jsonl") == BETWEEN.join(["first\nline", "second", "Who?\nMe.", "bare"])


def test_parquet_gives_its_text_column_row_by_row(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [f" = Title {i} = \n" for i in range(1200)]
    parquet.write_table(pyarrow.table({"id": list(range(1200)), "text": rows}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == BETWEEN.join(rows)
    parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "b.parquet")
    with pytest.raises(DynoError, match='no column "text"'):
        open_text(str(tmp_path / "b.parquet"))


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.txt", b"", "is empty"), ("a.txt", b" \n\t\n", "white space"), ("a.txt", b"\x7fELF\0\0", "zero bytes"),
    ("a.txt", b"caf\xe9 " * 10, "not UTF-8"), ("a.txt", "Text".encode("utf-16"), "UTF-8|zero bytes"),
    ("a.jsonl", b"plain words", "not JSON"), ("a.jsonl", b'{"n": 1}', "holds no text"),
    ("a.parquet", b"PAR1 not really", "Parquet"),
])
def test_what_is_no_text_is_refused_with_a_sentence_and_what_to_do(tmp_path: Path, name: str, content: bytes,
                                                                   words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DynoError, match=words) as caught:
        open_text(str(tmp_path / name))
    assert caught.value.hint


@pytest.mark.parametrize("path", ["/nowhere/at/all.txt", "/", "a\0b"])
def test_a_file_that_is_not_there_is_refused(path: str) -> None:
    with pytest.raises(DynoError):
        open_text(path)


def pieces(text: str, rng: random.Random) -> Iterator[str]:
    """The text in pieces of random lengths."""
    at = 0
    while at < len(text):
        step = rng.randint(1, 900)
        yield text[at:at + step]
        at += step


@pytest.mark.parametrize("window", [300, 1000, 5000])
@pytest.mark.parametrize("name", ["gpt2_folder", "llama_folder", "stories", "bundled"])
def test_a_streams_tokens_are_those_of_the_whole_text(name: str, window: int, request: pytest.FixtureRequest) -> None:
    tokenizer = Tokenizer.from_folder(bundled_model() if name == "bundled" else request.getfixturevalue(name))
    odd = "One  two\n\n\n three\t—  “quoted”, don't: 🚲🚲 日本語 " * 12 + "x" * 700 + "\n"
    text = (TEXT + odd) * 8
    streamed = [i for ids in tokenizer.encode_stream(pieces(text, random.Random(window)), window) for i in ids]
    assert streamed == tokenizer.encode(text, special_tokens=False)


@pytest.mark.parametrize("name", ["gpt2_folder", "llama_folder", "stories", "bundled"])
def test_the_bytes_of_a_texts_tokens_add_up_to_the_text(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = Tokenizer.from_folder(bundled_model() if name == "bundled" else request.getfixturevalue(name))
    text = TEXT + "Größe, 日本 🚲"
    sizes = tokenizer.token_bytes()
    spare = 1 if name == "stories" else 0  # SentencePiece begins every text with a space of its own
    assert sum(sizes[i] for i in tokenizer.encode(text, special_tokens=False)) == len(text.encode()) + spare


def test_a_long_text_is_never_held_whole() -> None:
    tokenizer = Tokenizer.from_folder(bundled_model())
    handed = 0

    def endless() -> Iterator[str]:
        nonlocal handed
        while True:
            handed += len(TEXT)
            yield TEXT

    windows = fixed_windows(Counted(tokenizer.encode_stream(endless(), 1 << 14)), 512, None)
    for number in range(1, 60):
        window = next(windows)
        assert handed < number * 512 * 12 + 5 * (1 << 14)
        assert len(window.ids) == 512


def test_fixed_windows_score_the_half_after_the_middle_and_leave_the_rest_out() -> None:
    windows = list(fixed_windows(Counted([list(range(10)), list(range(10, 25))]), 10, 99))
    assert [w.ids for w in windows] == [[99, *range(1, 10)], [99, *range(11, 20)]]
    assert {(w.scored, w.weight) for w in windows} == {(6, 4)}


@pytest.mark.parametrize(("count", "stride"), [(10, 4), (11, 4), (12, 4), (22, 4), (30, 10), (31, 10), (7, 4), (2, 1)])
def test_strided_windows_score_every_token_but_the_first_once(count: int, stride: int) -> None:
    windows = list(strided_windows(Counted([[i] for i in range(count)]), 10, stride))
    scored = [token for w in windows for token in w.ids[w.scored:]]
    assert scored == sorted(set(scored)) and 0 not in scored
    lost = {stride * n for n in range(1, count) if stride == 10}  # without overlap a window's first token has no label
    last_alone = {count - 1} if (count - 10) % stride == 1 and count > 10 else set()  # weighs nothing in the recipe
    assert set(range(1, count)) - set(scored) <= lost | last_alone
