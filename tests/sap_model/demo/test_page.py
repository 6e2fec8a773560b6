"""The demo as a person uses it: the real server, the shipped model, a real browser."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import uvicorn

from sap_model.demo.server import make_app
from sap_model.demo.sessions import Sessions, find_panoramas
from sap_model.model.checkpoints import load
from sap_model.predict.predictor import SapPredictor
from tests.browser import Browser, open_browser

WIDTH = 512


def draw_room(path: Path) -> None:
    """Discs on a plain ground: in the middle, on the seam, and around the upper pole."""
    image = np.full((WIDTH // 2, WIDTH, 3), 190, np.uint8)
    cv2.circle(image, (256, 128), 30, (30, 30, 200), -1)
    cv2.circle(image, (0, 128), 24, (30, 160, 30), -1)
    cv2.circle(image, (WIDTH, 128), 24, (30, 160, 30), -1)
    image[:20] = (200, 120, 30)
    assert cv2.imwrite(str(path), image)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pictures")
    draw_room(folder / "room.png")
    model = load("nano", "sap-nano")
    sessions = Sessions(lambda: SapPredictor(model, "warp"), find_panoramas(str(folder)))
    config = uvicorn.Config(make_app(sessions, "sap-nano"), port=0, log_level="error")
    running = uvicorn.Server(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(20)
    torch.set_num_threads(threads)


def post(url: str, body: bytes, **headers: str) -> bytes:
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
        return reply.read()


def refusal(url: str, body: bytes, **headers: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, body, **headers)
    return caught.value.code, json.loads(caught.value.read())["error"]


def lines(answer: bytes) -> list[dict]:
    return [json.loads(line) for line in answer.splitlines()]


@pytest.fixture(scope="module")
def opened(server: str) -> str:
    steps = lines(post(f"{server}/api/sessions", b'{"panorama": "0"}'))
    assert steps[-1]["ready"]
    assert [step["encoded"] for step in steps if "encoded" in step] == [4, 8, 12, 16, 20, 24]
    return f"{server}/api/sessions/{steps[0]['session']}"


def test_masks_grow_view_by_view(opened: str):
    steps = lines(post(f"{opened}/objects/1", b'{"points": [[256, 128]], "labels": [1]}'))
    assert len(steps) >= 2
    assert steps[0]["seen"] == len(steps[0]["clicked"]) in (3, 4, 5)
    assert sorted(map(int, steps[0]["view_masks"])) == sorted(steps[0]["clicked"])
    assert steps[-1]["done"]
    assert steps[-1]["area"] > 0


def test_box_across_the_seam_is_a_prompt(opened: str):
    body = json.dumps({"box": [WIDTH - 24, 104, 48, 48]}).encode()
    assert lines(post(f"{opened}/objects/2", body))[-1]["done"]


def test_prompts_that_cannot_be_answered_are_one_line(opened: str):
    flat = json.dumps({"box": [0, 10, 400, 0]}).encode()
    assert "error" in lines(post(f"{opened}/objects/3", flat))[-1]
    outside = b'{"points": [[900, 2]], "labels": [1]}'
    assert "error" in lines(post(f"{opened}/objects/3", outside))[-1]
    assert refusal(f"{opened}/objects/3", b"no JSON")[0] == 400


def test_other_pages_and_hosts_are_refused(server: str):
    url = f"{server}/api/sessions"
    assert refusal(url, b"{}", Origin="http://elsewhere.example")[0] == 403
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, b"{}", Host="elsewhere.example")
    assert caught.value.code == 400


def test_broken_upload_is_one_line(server: str):
    code, line = refusal(f"{server}/api/panoramas?name=cat.png", b"\x89PNG\r\n\x1a\nbroken")
    assert code == 400
    assert "cat.png" in line


def test_session_that_is_gone(server: str):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server}/api/sessions/none/picture.jpg")  # noqa: S310
    assert caught.value.code == 404


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        browser.resize(1280, 800)
        yield browser


def text(browser: Browser, selector: str) -> str:
    return browser.evaluate(f"document.querySelector({selector!r})?.textContent ?? ''")


def wait_until_ready(browser: Browser) -> None:
    browser.wait_for(
        "(document.querySelector('#status')?.textContent ?? '').startsWith('Ready')", 90
    )


def test_a_person_clicks_corrects_and_exports(browser: Browser, server: str, tmp_path: Path):
    browser.open(server + "/")
    wait_until_ready(browser)
    assert browser.evaluate("document.querySelector('.psv-canvas') !== null")
    browser.click(472, 328)  # the middle of the sphere's view
    browser.wait_for("document.body.dataset.done === '1'", 60)
    browser.wait_for("document.querySelectorAll('#objects li').length === 1")
    painted = "document.querySelector('#flat').getContext('2d').getImageData(0,0,9,9).data.length"
    assert browser.evaluate(painted) == 9 * 9 * 4

    browser.evaluate("delete document.body.dataset.done")
    browser.click(600, 500, "right")
    browser.wait_for("document.body.dataset.done === '1'", 60)
    assert browser.evaluate("document.querySelectorAll('.marker').length") == 2

    browser.evaluate("delete document.body.dataset.done; document.querySelector('#undo').click()")
    browser.wait_for("document.body.dataset.done === '1'", 60)
    browser.wait_for("document.querySelectorAll('.marker').length === 1")

    url = browser.evaluate("document.querySelector('#export-coco').href")
    with urllib.request.urlopen(url) as reply:  # noqa: S310
        assert len(json.load(reply)["annotations"]) == 1

    browser.evaluate("document.querySelector('#undo').click()")
    browser.wait_for(
        "document.querySelector('#export-coco').getAttribute('aria-disabled') === 'true'"
    )
    assert text(browser, "#error") == ""


def test_looking_straight_up_and_at_the_seam(browser: Browser, server: str):
    browser.open(server + "/")
    wait_until_ready(browser)
    browser.drag((300, 150), (300, 550))
    browser.drag((300, 150), (300, 550))
    time.sleep(1.5)  # the view moves on for a moment
    browser.click(472, 328)
    browser.wait_for("document.body.dataset.done === '1'", 60)
    assert text(browser, "#error") == ""


def test_everything_is_one_layer(browser: Browser, server: str):
    browser.open(server + "/")
    wait_until_ready(browser)
    browser.evaluate("document.querySelector('#everything').click()")
    browser.wait_for("document.body.dataset.everything > 0", 120)
    count = int(browser.evaluate("document.body.dataset.everything"))
    browser.wait_for("document.querySelectorAll('#objects li').length === 1")
    url = browser.evaluate("document.querySelector('#export-coco').href")
    with urllib.request.urlopen(url) as reply:  # noqa: S310
        assert len(json.load(reply)["annotations"]) == count
    browser.evaluate("document.querySelector('#objects button').click()")
    browser.wait_for("document.querySelectorAll('#objects li').length === 0")
    browser.wait_for(
        "document.querySelector('#export-coco').getAttribute('aria-disabled') === 'true'"
    )
    assert text(browser, "#error") == ""


def test_upload_of_a_broken_file_is_shown(browser: Browser, server: str):
    browser.open(server + "/")
    wait_until_ready(browser)
    browser.evaluate(
        "(() => { const files = new DataTransfer();"
        "files.items.add(new File(['no picture'], 'notes.jpg'));"
        "const input = document.querySelector('#upload'); input.files = files.files;"
        "input.dispatchEvent(new Event('change')); })()"
    )
    browser.wait_for("!document.querySelector('#error').hidden")
    assert "notes.jpg" in text(browser, "#error")
