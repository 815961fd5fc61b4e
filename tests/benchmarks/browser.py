"""A real browser, driven by the W3C WebDriver protocol: JSON over HTTP, so no library is needed."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
_START_SECONDS = 30


class Browser:
    """One page in a headless Chromium."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options = {"args": arguments, "binary": CHROMIUM}
        logs = {"browser": "ALL", "performance": "ALL"}
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logs}}
        self._base += "/session/" + self._call("POST", "/session", capabilities=capabilities)["sessionId"]

    def quit(self) -> None:
        self._call("DELETE", "")

    def show(self, page: Path, width_px: int, scheme: str = "light") -> None:
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("POST", "/url", url=page.as_uri())

    def run(self, script: str) -> Any:
        return self._call("POST", "/execute/sync", script=script, args=[])

    def log_messages(self) -> list[str]:
        return [entry["message"] for entry in self._call("POST", "/se/log", type="browser")]

    def requests(self) -> list[str]:
        events = [
            json.loads(entry["message"])["message"] for entry in self._call("POST", "/se/log", type="performance")
        ]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def command(self, name: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", cmd=name, params=parameters)

    def _call(self, method: str, path: str, **body: Any) -> Any:
        content = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(
            self._base + path, content, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]


@contextmanager
def browser() -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([CHROMEDRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        page = Browser(port)
        page.start()
        yield page
        page.quit()
    finally:
        driver.terminate()
        driver.wait(timeout=30)
