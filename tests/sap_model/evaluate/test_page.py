"""The page of an evaluation in a browser: cases in 360°."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.shards.reader import ShardReader
from sap_model.evaluate.jobs import panoramas
from sap_model.evaluate.page import write_page
from sap_model.evaluate.report import write_report
from sap_model.evaluate.run import evaluate
from tests.browser import Browser, open_browser


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def test_cases_are_looked_at_in_360_degrees(browser, settings, tmp_path):
    evaluate(settings, tmp_path)
    wanted = panoramas(settings, ShardReader(settings.data, settings.split))
    page = write_page(
        settings, tmp_path, wanted, write_report(tmp_path, settings.benchmark, wanted)
    )
    browser.open(page)
    browser.wait_for("typeof panoramas === 'object'")
    assert browser.evaluate("Object.keys(panoramas).length") == len(wanted)
    browser.evaluate("document.querySelector('button.around').click()")
    browser.wait_for("document.querySelector('dialog')?.dataset.ready === '1'", 60)
    title = browser.evaluate("document.querySelector('dialog b').textContent")
    assert "IoU" in title and title.endswith(tuple(each.image_id for each in wanted))
    # the masks lie where the object is: in the middle of what is shown
    browser.evaluate(
        "window.drawn = document.createElement('canvas');"
        "Object.assign(drawn, {width: 2048, height: 1024});"
        "(async () => { const mask = new Image(); mask.src = cases[0].masks; await mask.decode();"
        "drawn.getContext('2d').drawImage(mask, 0, 0, 2048, 1024); window.ready = true; })()"
    )
    browser.wait_for("window.ready === true")
    red, green = browser.evaluate(
        "(([u, v]) => [...drawn.getContext('2d').getImageData(u * 2048, v * 1024, 1, 1).data])"
        "(cases[0].at).slice(0, 2)"
    )
    assert max(red, green) > 127
    browser.evaluate("document.querySelector('dialog button').click()")
    browser.wait_for("document.querySelector('dialog') === null")
    methods = {event["method"] for event in browser.events}
    assert not {"Runtime.exceptionThrown", "Log.entryAdded"} & methods
