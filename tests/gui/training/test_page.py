"""The Train page over the whole application and a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from engine.train_events import Finding
from engine.train_plan import TrainPlan
from engine.training.records import FACTS, RunRecord
from gui.app import Application
from gui.training.page import TrainingPage
from gui.training.tasks import TASKS
from tests.engine.training.support import plan_for, run_plan
from tests.engine.training.test_data import CHAT
from tests.engine.training.test_records import dead_process
from tests.gui.conftest import until


def opened(qapp: QApplication, app: Application, data: Path, **settings: object) -> TrainingPage:
    """The page in front, and a plan of seconds on a new model."""
    page = app.window.pages["training"]
    assert isinstance(page, TrainingPage)
    app.window.show_page(list(app.window.pages).index("training"))
    until(qapp, lambda: page.form.editors["model"].value(), "the model")
    page.form.choose(next(task for task in TASKS if task.key == "scratch"))
    plan = plan_for(data, sample="The ", **settings)
    for name, value in plan.to_json().items():
        page.form.editors[name].show_value(tuple(value) if isinstance(value, list) else value)
    page.form.changed.emit()
    assert page.form.plan() == plan
    return page


def ended(qapp: QApplication, page: TrainingPage) -> None:
    until(qapp, lambda: not page.job.busy, "the end of the run")
    page.look()


def test_a_plan_trains_and_its_result_opens_in_chat(qapp: QApplication, qtbot: QtBot, application: Application,
                                                   tmp_path: Path) -> None:
    page = opened(qapp, application, tmp_path)
    qtbot.mouseClick(page.start, Qt.MouseButton.LeftButton)
    assert page.pause.isVisible() and not page.start.isVisible()
    ended(qapp, page)
    run = page.shown
    assert run is not None and run.state == "done" and run.facts.parameters
    assert len(page.run.charts.loss.marks) == 4
    assert "Step 12" in page.run.samples.toPlainText()
    qtbot.mouseClick(page.run.as_table, Qt.MouseButton.LeftButton)
    assert page.run.table.rowCount() == 4 + 4
    page.runs.refresh()
    assert [r.folder for r in page.runs.runs] == [run.folder]
    qtbot.mouseClick(page.uses["chat"], Qt.MouseButton.LeftButton)
    until(qapp, lambda: application.window._model and application.window._model.folder == run.model, "the result")
    assert application.window._model.name == run.folder.name
    assert application.window._stack.currentWidget() is application.window.pages["chat"]


def test_a_run_is_paused_resumed_and_stopped_with_its_best(qapp: QApplication, qtbot: QtBot, application: Application,
                                                           tmp_path: Path) -> None:
    page = opened(qapp, application, tmp_path, steps=20_000, evaluate_every=10)
    qtbot.mouseClick(page.start, Qt.MouseButton.LeftButton)
    until(qapp, lambda: page.shown is not None and page.shown.train, "a point of the curve")
    qtbot.mouseClick(page.pause, Qt.MouseButton.LeftButton)
    ended(qapp, page)
    assert page.shown is not None and page.shown.state == "paused" and page.resume.isVisible()
    paused = page.shown.step
    qtbot.mouseClick(page.resume, Qt.MouseButton.LeftButton)
    until(qapp, lambda: page.shown is not None and page.shown.step > paused, "a step after the pause")
    qtbot.mouseClick(page.finish, Qt.MouseButton.LeftButton)
    ended(qapp, page)
    assert page.shown is not None and page.shown.state == "finished early" and page.shown.model


def test_a_plan_that_cannot_be_says_why_and_does_not_start(qapp: QApplication, application: Application,
                                                           tmp_path: Path) -> None:
    page = opened(qapp, application, tmp_path)
    page.form.editors["steps"].control.setText("many")
    page.form.changed.emit()
    assert not page.start.isEnabled() and "many" in page.status.text()
    page.form.editors["steps"].show_value(5)
    page.form.editors["data"].show_value(())
    page.form.changed.emit()
    assert not page.start.isEnabled() and "data" in page.status.text()


def test_a_run_that_fails_says_what_and_what_to_do(qapp: QApplication, qtbot: QtBot, application: Application,
                                                   tmp_path: Path) -> None:
    page = opened(qapp, application, tmp_path, optimizer="sgd", lr=10.0, clip=0.0, warmup=0, steps=300,
                  weight_decay=0.0, momentum=0.999)
    qtbot.mouseClick(page.start, Qt.MouseButton.LeftButton)
    ended(qapp, page)
    assert "not a number" in page.notice.text() and "Lower the learning rate" in page.notice.text()
    assert page.shown is not None and page.shown.state == "failed"


def test_a_remedy_is_set_in_the_form_by_its_button(qapp: QApplication, qtbot: QtBot, application: Application,
                                                   tmp_path: Path) -> None:
    run_plan(plan_for(tmp_path, batch=3), tmp_path / "run")
    page = opened(qapp, application, tmp_path)
    page.open_run(RunRecord.open(tmp_path / "run"))
    found = Finding("over-fitting", "Over-fitting since step 4.", "Raise dropout.", 4, {"dropout": 0.1, "patience": 3})
    page.run.diagnosis.show_findings((found,))
    qtbot.mouseClick(page.run.diagnosis.button, Qt.MouseButton.LeftButton)
    assert page.form.plan().dropout == 0.1 and page.form.plan().patience == 3
    assert page.form.plan().batch == 3, "the remedy is one of the run that is shown"
    assert page.form.isVisible() and "Dropout 0.1" in page.notice.text()


def test_tokens_without_loss_look_different_in_more_than_colour(qapp: QApplication, qtbot: QtBot,
                                                                application: Application, tmp_path: Path) -> None:
    page = opened(qapp, application, tmp_path)
    data = tmp_path / "chat.jsonl"
    data.write_text("\n".join([json.dumps({"messages": CHAT})] * 30))
    page.form.editors["data"].show_value((str(data),))
    qtbot.mouseClick(page.form.preview.button, Qt.MouseButton.LeftButton)
    view = page.form.preview
    until(qapp, lambda: not view.text.isHidden(), "the preview")
    looks = []
    for at in (2, view.text.toPlainText().index("Seven") + 2):
        cursor = QTextCursor(view.text.document())
        cursor.setPosition(at)
        looks.append(cursor.charFormat())
    dotted = QTextCharFormat.UnderlineStyle.DotLine
    assert [(look.fontItalic(), look.underlineStyle() == dotted) for look in looks] == [(True, True), (False, False)]
    assert "carry loss" in view.facts.text() and "[<|user|>]" in view.text.accessibleDescription()


def test_a_run_made_elsewhere_is_watched(qapp: QApplication, application: Application, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    run_plan(plan_for(tmp_path), elsewhere, asked=lambda e: "pause")
    page = opened(qapp, application, tmp_path)
    page.runs.watch_folder(elsewhere)
    assert page.shown is not None and page.shown.folder == elsewhere
    before = page.shown.step
    run_plan(plan_for(tmp_path), elsewhere, resume=True)
    until(qapp, lambda: page.shown is not None and page.shown.state == "done", "the end of the run elsewhere")
    until(qapp, lambda: page.shown is not None and page.shown.step == 12 > before, "its last step")
    page.runs.refresh()
    assert elsewhere in [r.folder for r in page.runs.runs]


def test_an_interrupted_run_is_offered(qapp: QApplication, application: Application, tmp_path: Path) -> None:
    folder = application.settings.folder / "training" / "lost"
    run_plan(plan_for(tmp_path), folder, asked=lambda e: "pause")
    (folder / FACTS).write_text(replace(dead_process(), parameters=1).to_json())
    page = opened(qapp, application, tmp_path)
    assert "lost was interrupted at step" in page.notice.text()
    page.notice._action.click()
    ended(qapp, page)
    assert RunRecord.open(folder).state == "done"


def test_a_probe_says_what_more_would_bring(qapp: QApplication, qtbot: QtBot, application: Application,
                                            tmp_path: Path) -> None:
    page = opened(qapp, application, tmp_path, steps=20)
    qtbot.mouseClick(page.probe_button, Qt.MouseButton.LeftButton)
    until(qapp, lambda: not page.job.busy, "the probe")
    assert page.probe.runs.text().count("\n") == 3
    assert "twice the data" in page.probe.words.text()


@pytest.mark.parametrize("task", TASKS, ids=[task.key for task in TASKS])
def test_every_task_starts_from_a_plan_that_can_be(themed: None, qtbot: QtBot, task) -> None:  # type: ignore[no-untyped-def]
    from gui.training.form import TrainForm
    from gui.training.tasks import task_of

    form = TrainForm()
    qtbot.addWidget(form)
    form.editors["data"].show_value(("x.txt",))
    form.editors["model"].show_value("m")
    form.choose(task)
    plan = form.plan()
    assert isinstance(plan, TrainPlan) and task_of(plan) is task
    for name, editor in form.editors.items():
        assert editor.control.accessibleName() and editor.control.accessibleDescription(), name
    form.show_plan(plan)
    assert form.plan() == plan


def test_a_run_is_removed_and_had_back_and_a_watched_one_only_leaves_the_list(
        qapp: QApplication, qtbot: QtBot, application: Application, tmp_path: Path) -> None:
    page = opened(qapp, application, tmp_path)
    page.start.click()
    ended(qapp, page)
    run = page.shown
    assert run is not None
    weights = (Path(run.model) / "model.safetensors").read_bytes()
    elsewhere = tmp_path / "elsewhere"
    run_plan(plan_for(tmp_path), elsewhere)
    page.runs.watch_folder(elsewhere)
    page.tabs.setCurrentWidget(page.runs)

    def choose(folder: Path) -> None:
        page.runs.table.selectRow([r.folder for r in page.runs.runs].index(folder))

    choose(elsewhere)
    page.runs.table.setFocus()
    qtbot.keyClick(page.runs.table, Qt.Key.Key_Delete)
    assert elsewhere not in [r.folder for r in page.runs.runs] and (elsewhere / "plan.json").is_file()
    choose(run.folder)
    page.open_run(run)
    page.tabs.setCurrentWidget(page.runs)
    choose(run.folder)
    qtbot.mouseClick(page.runs.buttons["remove"], Qt.MouseButton.LeftButton)
    assert not run.folder.exists() and page.runs.runs == [] and page.shown is None
    page.runs._undo()
    assert (Path(run.model) / "model.safetensors").read_bytes() == weights
    choose(run.folder)
    page.runs.remove()
    page.runs.settle()
    assert not run.folder.exists() and not list(run.folder.parent.glob(".removed/*"))
