"""Markdown into a text document: Qt parses it, this dresses it (code blocks with highlighting, tables, spacing).

HTML in the text stays text, and nothing is ever loaded from a link: see TextView.loadResource.
"""

from __future__ import annotations

from collections.abc import Iterator

from pygments import lex
from pygments.lexers import get_lexer_by_name
from pygments.token import Token
from pygments.util import ClassNotFound
from PySide6.QtGui import (
    QBrush,
    QColor,
    QFont,
    QTextBlock,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFormat,
)

from gui.theme import Colours, code_font

_FEATURES = QTextDocument.MarkdownFeature.MarkdownDialectGitHub | QTextDocument.MarkdownFeature.MarkdownNoHTML
_LINE_HEIGHT_PERCENT = 122
_FENCE = QTextFormat.Property.BlockCodeFence
_LANGUAGE = QTextFormat.Property.BlockCodeLanguage


def set_markdown(document: QTextDocument, text: str, colours: Colours, highlight: bool = True) -> None:
    """Fill a document. `highlight` off skips code colouring (while a reply streams)."""
    document.setMarkdown(_hard_breaks(text), _FEATURES)
    cursor = QTextCursor(document)
    cursor.select(QTextCursor.SelectionType.Document)
    spacing = QTextBlockFormat()
    spacing.setLineHeight(_LINE_HEIGHT_PERCENT, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
    cursor.mergeBlockFormat(spacing)
    for first, last in code_blocks(document):
        _dress_code(first, last, document.defaultFont(), colours, highlight)


def code_blocks(document: QTextDocument) -> Iterator[tuple[QTextBlock, QTextBlock]]:
    """(first line, last line) of every fenced code block."""
    block = document.begin()
    while block.isValid():
        if block.blockFormat().hasProperty(_FENCE) or block.blockFormat().hasProperty(_LANGUAGE):
            first = last = block
            while last.next().isValid() and last.next().blockFormat().hasProperty(_FENCE):
                last = last.next()
            yield first, last
            block = last
        block = block.next()


def code_text(first: QTextBlock, last: QTextBlock) -> str:
    """The code of a block, line by line."""
    lines, block = [], first
    while True:
        lines.append(block.text())
        if block == last:
            return "\n".join(lines)
        block = block.next()


def _hard_breaks(text: str) -> str:
    """A line break in a chat means a line break, outside code fences."""
    out, fenced = [], False
    lines = text.split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        plain = not fenced and line.strip() and following.strip() and not line.lstrip().startswith(("|", "#", "```"))
        out.append(line.rstrip() + "  " if plain else line)
    return "\n".join(out)


def _dress_code(first: QTextBlock, last: QTextBlock, base: QFont, colours: Colours, highlight: bool) -> None:
    cursor = QTextCursor(first)
    block = first
    while True:
        form = QTextBlockFormat(block.blockFormat())
        form.setBackground(QBrush(QColor(colours.code)))
        form.setLeftMargin(4)
        form.setTopMargin(4 if block == first else 0)
        form.setBottomMargin(6 if block == last else 0)
        form.setNonBreakableLines(False)
        cursor.setPosition(block.position())
        cursor.setBlockFormat(form)
        if block == last:
            break
        block = block.next()
    plain = QTextCharFormat()
    plain.setFont(code_font(base))
    plain.setForeground(QColor(colours.text))
    cursor.setPosition(first.position())
    cursor.setPosition(last.position() + last.length() - 1, QTextCursor.MoveMode.KeepAnchor)
    cursor.mergeCharFormat(plain)
    if highlight:
        language = first.blockFormat().stringProperty(_LANGUAGE)
        _colour(first, code_text(first, last), language, colours)


def _colour(first: QTextBlock, code: str, language: str, colours: Colours) -> None:
    try:
        lexer = get_lexer_by_name(language or "text", stripnl=False, ensurenl=False)
    except ClassNotFound:
        return
    palette = {Token.Keyword: colours.series[3], Token.Name.Function: colours.series[0],
               Token.Name.Class: colours.series[0], Token.Literal.String: colours.series[2],
               Token.Literal.Number: colours.series[4], Token.Comment: colours.muted, Token.Operator: colours.series[5],
               Token.Name.Builtin: colours.series[5]}
    cursor, position = QTextCursor(first), first.position()
    for kind, value in lex(code, lexer):
        colour = next((palette[k] for k in _lineage(kind) if k in palette), None)
        if colour is not None and value.strip():
            form = QTextCharFormat()
            form.setForeground(QColor(colour))
            cursor.setPosition(position)
            cursor.setPosition(position + _utf16(value), QTextCursor.MoveMode.KeepAnchor)
            cursor.mergeCharFormat(form)
        position += _utf16(value)


def _lineage(kind) -> Iterator:  # type: ignore[no-untyped-def, type-arg]
    """A pygments token type and its ancestors."""
    while kind is not None:
        yield kind
        kind = kind.parent


def _utf16(text: str) -> int:
    """Length in the units Qt counts positions in."""
    return len(text.encode("utf-16-le")) // 2
