"""Colours, fonts and icons, in light and dark. Everything drawn by hand asks `theme()` for its colours."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QByteArray, QObject, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QIcon, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

from engine.paths import RESOURCES


@dataclass(frozen=True)
class Colours:
    """One scheme. window: behind everything; surface: cards, fields; raised: hovered; accent_soft: selected."""

    dark: bool
    window: str
    surface: str
    raised: str
    border: str
    text: str
    muted: str
    accent: str
    accent_soft: str
    on_accent: str
    good: str
    warning: str
    error: str
    error_soft: str
    code: str
    series: tuple[str, ...]


LIGHT = Colours(
    dark=False, window="#f6f7f9", surface="#ffffff", raised="#eceff3", border="#dfe3e8", text="#1b1f24",
    muted="#5d6673", accent="#1f6feb", accent_soft="#e3edfd", on_accent="#ffffff", good="#1a7f37", warning="#9a6700",
    error="#c1282d", error_soft="#fdecec", code="#f2f4f7",
    series=("#1f6feb", "#c2410c", "#15803d", "#7c3aed", "#b45309", "#0e7490", "#be185d", "#4d7c0f"))
DARK = Colours(
    dark=True, window="#15171b", surface="#1d2025", raised="#272b32", border="#31363e", text="#e6e8eb",
    muted="#9aa3af", accent="#6ba5ff", accent_soft="#22324d", on_accent="#0d1422", good="#57c974", warning="#e0b04a",
    error="#ff7b7b", error_soft="#3a2123", code="#16191e",
    series=("#6ba5ff", "#fb923c", "#57c974", "#b794f6", "#facc15", "#22d3ee", "#f472b6", "#a3e635"))


class Theme(QObject):
    """The active scheme. choice: "system", "light" or "dark". `changed` comes after the application is restyled."""

    changed = Signal()

    def __init__(self, app: QApplication, choice: str = "system", font_percent: int = 100) -> None:
        super().__init__(app)
        self._app = app
        self._base_size = app.font().pointSizeF()
        self.choice = choice
        self.font_percent = font_percent
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._system_changed)
        self.colours = LIGHT
        self.apply()

    def set_choice(self, choice: str) -> None:
        """Switch scheme."""
        self.choice = choice
        self.apply()

    def set_font_percent(self, percent: int) -> None:
        """Scale every font."""
        self.font_percent = percent
        self.apply()

    def apply(self) -> None:
        """Restyle the application."""
        dark = self.choice == "dark" or (self.choice == "system" and _system_is_dark())
        self.colours = DARK if dark else LIGHT
        font = self._app.font()
        font.setPointSizeF(self._base_size * self.font_percent / 100)
        self._app.setFont(font)
        self._app.setPalette(_palette(self.colours))
        self._app.setStyleSheet(_stylesheet(self.colours))
        self.changed.emit()

    def _system_changed(self) -> None:
        if self.choice == "system":
            self.apply()


_theme: Theme | None = None


def install_theme(app: QApplication, choice: str, font_percent: int) -> Theme:
    """Create the application's theme; call once, before any window."""
    global _theme
    app.setStyle("Fusion")
    _theme = Theme(app, choice, font_percent)
    return _theme


def theme() -> Theme:
    """The application's theme."""
    assert _theme is not None, "install_theme() comes first"
    return _theme


def colours() -> Colours:
    """The active scheme."""
    return theme().colours


def icon(name: str, colour: str | None = None, size: int = 20) -> QIcon:
    """An icon of resources/icons drawn in one colour (the text colour by default), with a dimmed disabled state."""
    made = QIcon()
    made.addPixmap(pixmap(name, colour or colours().text, size), QIcon.Mode.Normal)
    made.addPixmap(pixmap(name, colours().border, size), QIcon.Mode.Disabled)
    return made


def pixmap(name: str, colour: str, size: int) -> QPixmap:
    """One icon as a picture, sharp on dense screens."""
    svg = (RESOURCES / "icons" / f"{name}.svg").read_text(encoding="utf-8").replace("currentColor", colour)
    picture = QPixmap(size * 2, size * 2)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    QSvgRenderer(QByteArray(svg.encode())).render(painter, QRectF(0, 0, size * 2, size * 2))
    painter.end()
    picture.setDevicePixelRatio(2.0)
    return picture


def small_font(base: QFont, factor: float = 0.88) -> QFont:
    """The font a little smaller, with figures of equal width."""
    font = QFont(base)
    font.setPointSizeF(base.pointSizeF() * factor)
    font.setFeature(QFont.Tag("tnum"), 1)
    return font


def code_font(base: QFont) -> QFont:
    """The system's fixed-width font at the size of `base`."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    font.setPointSizeF(base.pointSizeF() * 0.95)
    return font


def _system_is_dark() -> bool:
    return QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Dark


def _palette(c: Colours) -> QPalette:
    palette = QPalette()
    role = QPalette.ColorRole
    for name, colour in ((role.Window, c.window), (role.WindowText, c.text), (role.Base, c.surface),
                         (role.AlternateBase, c.raised), (role.Text, c.text), (role.Button, c.surface),
                         (role.ButtonText, c.text), (role.ToolTipBase, c.surface), (role.ToolTipText, c.text),
                         (role.PlaceholderText, c.muted), (role.Highlight, c.accent),
                         (role.HighlightedText, c.on_accent), (role.Link, c.accent), (role.LinkVisited, c.accent),
                         (role.Mid, c.border), (role.Dark, c.border), (role.Light, c.surface),
                         (role.BrightText, c.error)):
        palette.setColor(name, QColor(colour))
    for name in (role.Text, role.WindowText, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, name, QColor(c.muted))
    return palette


def _stylesheet(c: Colours) -> str:
    chevrons, scheme = (RESOURCES / "icons").as_posix(), "dark" if c.dark else "light"
    return f"""
    QMainWindow, QDialog {{ background: {c.window}; }}
    QMainWindow::separator {{ background: {c.border}; width: 1px; height: 1px; }}
    QMainWindow::separator:hover {{ background: {c.accent}; }}
    QToolTip {{ background: {c.surface}; color: {c.text}; border: 1px solid {c.border}; padding: 4px; }}
    QDockWidget {{ titlebar-close-icon: none; titlebar-normal-icon: none; }}
    QDockWidget::title {{ background: {c.window}; padding: 6px 10px; text-align: left; }}
    QScrollArea, QScrollArea > QWidget > QWidget {{ background: transparent; border: none; }}
    QPushButton {{ background: {c.surface}; border: 1px solid {c.border}; border-radius: 6px; padding: 5px 12px; }}
    QPushButton:hover {{ background: {c.raised}; }}
    QPushButton:pressed {{ background: {c.border}; }}
    QPushButton:disabled {{ color: {c.muted}; background: {c.window}; }}
    QPushButton:focus, QToolButton:focus, QComboBox:focus, QSpinBox:focus, QDoubleSpinBox:focus {{
        border: 1px solid {c.accent}; }}
    QPushButton[primary="true"] {{ background: {c.accent}; color: {c.on_accent}; border-color: {c.accent}; }}
    QPushButton[primary="true"]:disabled {{ background: {c.raised}; color: {c.muted}; border-color: {c.border}; }}
    QPushButton[quiet="true"], QToolButton {{ background: transparent; border: 1px solid transparent;
        border-radius: 6px; padding: 4px 6px; }}
    QPushButton[quiet="true"]:hover, QToolButton:hover {{ background: {c.raised}; }}
    QPushButton[link="true"] {{ background: transparent; border: 1px solid transparent; color: {c.accent};
        padding: 1px 5px; }}
    QPushButton[link="true"]:hover {{ background: {c.raised}; }}
    QPushButton[quiet="true"]:focus, QPushButton[link="true"]:focus {{ border: 1px solid {c.accent}; }}
    QToolButton:checked {{ background: {c.accent_soft}; color: {c.accent}; }}
    QToolButton::menu-indicator {{ image: none; }}
    QLineEdit, QPlainTextEdit, QSpinBox, QDoubleSpinBox, QComboBox {{ background: {c.surface};
        border: 1px solid {c.border}; border-radius: 6px; padding: 4px 6px; selection-background-color: {c.accent};
        selection-color: {c.on_accent}; }}
    QLineEdit:focus, QPlainTextEdit:focus, QListView:focus, QTreeView:focus {{ border: 1px solid {c.accent}; }}
    QComboBox::drop-down {{ border: none; width: 22px; }}
    QComboBox::down-arrow, QSpinBox::down-arrow, QDoubleSpinBox::down-arrow {{
        image: url({chevrons}/chevron-down-{scheme}.svg); width: 12px; height: 12px; }}
    QSpinBox::up-arrow, QDoubleSpinBox::up-arrow {{ image: url({chevrons}/chevron-up-{scheme}.svg); width: 12px;
        height: 12px; }}
    QSpinBox::up-button, QSpinBox::down-button, QDoubleSpinBox::up-button, QDoubleSpinBox::down-button {{
        background: transparent; border: none; width: 18px; }}
    QComboBox QAbstractItemView {{ background: {c.surface}; border: 1px solid {c.border};
        selection-background-color: {c.accent_soft}; selection-color: {c.text}; outline: 0; }}
    QListView, QTreeView, QTableView {{ background: {c.surface}; border: 1px solid {c.border}; border-radius: 6px;
        outline: 0; alternate-background-color: {c.window}; }}
    QListView::item, QTreeView::item {{ padding: 4px; border-radius: 4px; }}
    QListView::item:selected, QTreeView::item:selected, QTableView::item:selected {{ background: {c.accent_soft};
        color: {c.text}; }}
    QHeaderView::section {{ background: {c.window}; color: {c.muted}; border: none;
        border-bottom: 1px solid {c.border}; padding: 4px 6px; }}
    QTabBar {{ qproperty-drawBase: 0; }}
    QTabBar::tab {{ background: transparent; color: {c.muted}; padding: 6px 12px; border: none;
        border-bottom: 2px solid transparent; }}
    QTabBar::tab:hover {{ color: {c.text}; }}
    QTabBar::tab:selected {{ color: {c.text}; font-weight: 600; border-bottom: 2px solid {c.accent}; }}
    QTabBar::tab:focus {{ background: {c.accent_soft}; border-radius: 4px; }}
    QTabWidget::pane {{ border: none; border-top: 1px solid {c.border}; }}
    QCheckBox::indicator, QListView::indicator {{ width: 14px; height: 14px; border: 1px solid {c.muted};
        border-radius: 3px; background: {c.surface}; }}
    QCheckBox::indicator:checked, QListView::indicator:checked {{ background: {c.accent}; border-color: {c.accent};
        image: url({chevrons}/check-{scheme}.svg); }}
    QCheckBox::indicator:disabled, QListView::indicator:disabled {{ border-color: {c.border};
        background: {c.raised}; }}
    QCheckBox:focus {{ color: {c.accent}; }}
    QMenu {{ background: {c.surface}; border: 1px solid {c.border}; padding: 4px; }}
    QMenu::item {{ padding: 5px 22px; border-radius: 4px; }}
    QMenu::item:selected {{ background: {c.accent_soft}; color: {c.text}; }}
    QMenu::item:disabled {{ color: {c.muted}; }}
    QMenu::separator {{ height: 1px; background: {c.border}; margin: 4px 8px; }}
    QAbstractSpinBox QLineEdit {{ border: none; background: transparent; padding: 0; }}
    QMenuBar {{ background: {c.window}; }}
    QMenuBar::item {{ padding: 4px 8px; background: transparent; border-radius: 4px; }}
    QMenuBar::item:selected {{ background: {c.raised}; }}
    QStatusBar {{ background: {c.window}; border-top: 1px solid {c.border}; }}
    QStatusBar::item {{ border: none; }}
    QStatusBar QLabel {{ padding: 0 8px; }}
    QProgressBar {{ background: {c.raised}; border: none; border-radius: 3px; max-height: 6px; }}
    QProgressBar::chunk {{ background: {c.accent}; border-radius: 3px; }}
    QScrollBar:vertical {{ background: transparent; width: 10px; margin: 0; }}
    QScrollBar:horizontal {{ background: transparent; height: 10px; margin: 0; }}
    QScrollBar::handle {{ background: {c.border}; border-radius: 4px; min-height: 28px; min-width: 28px; margin: 1px; }}
    QScrollBar::handle:hover {{ background: {c.muted}; }}
    QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
    QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
    QLabel[muted="true"] {{ color: {c.muted}; }}
    QLabel[heading="true"] {{ color: {c.muted}; font-weight: 600; }}
    QFrame[card="true"] {{ background: {c.surface}; border: 1px solid {c.border}; border-radius: 8px; }}
    QFrame[problem="true"] {{ background: {c.error_soft}; border: 1px solid {c.error}; border-radius: 8px; }}
    QFrame[line="true"] {{ background: {c.border}; border: none; max-height: 1px; }}
    """
