"""The list of conversations: new, search, rename, delete with undo."""

from __future__ import annotations

from PySide6.QtCore import QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from engine.storage import Conversation, Store
from gui.theme import icon

_ID = Qt.ItemDataRole.UserRole
_SEARCH_PAUSE_MS = 150


class ConversationList(QWidget):
    """Shows what the store holds. `chosen` carries a conversation id."""

    chosen = Signal(int)
    new_requested = Signal()
    deleted = Signal(int, str)
    renamed = Signal(int, str)

    def __init__(self, store: Store, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._new = QPushButton(self.tr("New chat"))
        self._new.setToolTip(self.tr("New chat (Ctrl+N)"))
        self.search = QLineEdit(clearButtonEnabled=True)
        self.search.setPlaceholderText(self.tr("Search (Ctrl+K)"))
        self.search.setAccessibleName(self.tr("Search in all conversations"))
        self._list = _List()
        self._list.setAccessibleName(self.tr("Conversations"))
        self._list.setEditTriggers(QAbstractItemView.EditTrigger.EditKeyPressed)
        self._list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        row = QHBoxLayout()
        row.addWidget(self._new, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 8)
        layout.addLayout(row)
        layout.addWidget(self.search)
        layout.addWidget(self._list, 1)
        self._pause = QTimer(self, singleShot=True, interval=_SEARCH_PAUSE_MS)
        self._pause.timeout.connect(self.refresh)
        self._new.clicked.connect(self.new_requested)
        self.search.textChanged.connect(lambda _: self._pause.start())
        self._list.currentItemChanged.connect(self._current_changed)
        self._list.itemChanged.connect(self._renamed)
        self._list.customContextMenuRequested.connect(self._menu)
        self._list.delete_pressed.connect(self._delete_current)
        self.restyle()

    def refresh(self, current: int | None = None) -> None:
        """Read the store again; `current` is selected without being announced."""
        if current is None:
            current = self.current_id()
        self._list.blockSignals(True)
        self._list.clear()
        found = self._store.conversations(self.search.text().strip())
        for conversation in found:
            self._list.addItem(_item(conversation))
            if conversation.id == current:
                self._list.setCurrentRow(self._list.count() - 1)
        if not found:
            empty = QListWidgetItem(self.tr("Nothing found") if self.search.text().strip() else
                                    self.tr("No chats yet"))
            empty.setFlags(Qt.ItemFlag.NoItemFlags)
            self._list.addItem(empty)
        self._list.blockSignals(False)

    def stop(self) -> None:
        """Search no more: the store is about to close."""
        self._pause.stop()

    def current_id(self) -> int | None:
        """Id of the selected conversation."""
        item = self._list.currentItem()
        found: int | None = item.data(_ID) if item is not None else None
        return found

    def clear_selection(self) -> None:
        """Select nothing: a new conversation has been begun."""
        self._list.blockSignals(True)
        self._list.setCurrentRow(-1)
        self._list.clearSelection()
        self._list.blockSignals(False)

    def restyle(self) -> None:
        """Draw again in the active colours."""
        self._new.setIcon(icon("plus"))

    def _current_changed(self, item: QListWidgetItem | None) -> None:
        if item is not None and item.data(_ID) is not None:
            self.chosen.emit(item.data(_ID))

    def _renamed(self, item: QListWidgetItem) -> None:
        title = item.text().strip()
        if not title:
            item.setText(item.toolTip())  # an empty name changes nothing
        elif title != item.toolTip():
            item.setToolTip(title)
            self._store.rename(item.data(_ID), title)
            self.renamed.emit(item.data(_ID), title)

    def _menu(self, where: QPoint) -> None:
        item = self._list.itemAt(where)
        if item is None or item.data(_ID) is None:
            return
        menu = QMenu(self)
        menu.addAction(icon("edit"), self.tr("Rename (F2)"), lambda: self._list.editItem(item))
        menu.addAction(icon("trash"), self.tr("Delete (Del)"), lambda: self._delete(item))
        menu.exec(self._list.mapToGlobal(where))

    def _delete_current(self) -> None:
        item = self._list.currentItem()
        if item is not None and item.data(_ID) is not None:
            self._delete(item)

    def _delete(self, item: QListWidgetItem) -> None:
        conversation_id, title = item.data(_ID), item.text()
        self._store.delete(conversation_id)
        self.refresh()
        self.deleted.emit(conversation_id, title)


class _List(QListWidget):
    delete_pressed = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Delete:
            self.delete_pressed.emit()
            return
        super().keyPressEvent(event)


def _item(conversation: Conversation) -> QListWidgetItem:
    item = QListWidgetItem(conversation.title)
    item.setData(_ID, conversation.id)
    item.setToolTip(conversation.title)
    item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)
    return item
