"""One ComfyUI and one browser for all tests in this folder; tests/conftest.py assigns them all to one worker.

The thread in which Playwright's event loop runs cannot run another one, so the browser is closed after the folder's last test.
"""

import asyncio
from threading import Thread

import pytest
from front_end import ARGUMENTS, SAVED, WINDOW, WORKFLOWS, FrontEnd, browser_program, front_end_workspace
from playwright.sync_api import sync_playwright

from harness.server import ComfyUIServer
from harness.workspace import default_workspace


@pytest.fixture(scope="package")
def browser():
    program = browser_program()
    if not program:
        pytest.skip("no Chromium or Chrome on the PATH: 'apt-get install chromium' or the like")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def workspace(tmp_path_factory):
    """Write the files that the graphs name."""
    graphs = [*WORKFLOWS.glob("*.json"), *SAVED.glob("*/*.json")]
    return front_end_workspace(tmp_path_factory.mktemp("browser"), default_workspace().comfyui, graphs)


@pytest.fixture(scope="package")
def url(workspace):
    """Run a ComfyUI, controlled from a separate thread, and yield its address."""
    server = ComfyUIServer(workspace, arguments=("--preview-method", "auto"))
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")  # more threads would slow down tiny models on a busy machine
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
    yield server.url
    asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(scope="package")
def front_end(browser, url):
    """Open the page that most tests share."""
    page = browser.new_page(viewport=WINDOW)
    yield FrontEnd(page, url)
    page.close()


@pytest.fixture
def fresh_front_end(browser, url):
    """Open a separate page, for a test that changes settings or leaves a dialog open."""
    page = browser.new_page(viewport=WINDOW)
    yield FrontEnd(page, url)
    page.close()
