"""A real browser for the tests of the page: Chromium, headless, driven through its debugging protocol over a pair of pipes.

The protocol: https://chromedevtools.github.io/devtools-protocol/; with --remote-debugging-pipe the browser reads commands from
file descriptor 3 and writes answers and events to 4, each one JSON and a zero byte.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_S = 60  # for one answer
WITHOUT = "there is no Chromium here; on Debian: apt-get install chromium"


class Page:
    """One tab. `events` is everything that the browser reported about it."""

    def __init__(self, commands: Any, answers: Any, browser: "subprocess.Popen[bytes]") -> None:
        self.commands, self.answers, self.browser = commands, answers, browser
        self.events: list[dict[str, Any]] = []
        self.number = 0
        self.session: str | None = None

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        content = bytearray()
        limit = threading.Timer(PATIENCE_S, self.browser.kill)  # which ends the pipe that is read below
        limit.start()
        try:
            while (byte := self.answers.read(1)) != b"\0":
                assert byte, f"the browser has gone, or did not answer in {PATIENCE_S} s"
                content += byte
        finally:
            limit.cancel()
        return dict(json.loads(content))

    def open(self, address: str) -> None:
        """Goes there, and waits until all of it is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, program: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=program, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13}
        text = {"type": "keyDown", "text": "\r"} if key == "Enter" else {"type": "rawKeyDown"}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self.send("Input.dispatchKeyEvent", **common, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def look(self, *, width: int, dark: bool = False) -> None:
        """A window of this width, light or dark."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[Any]:
        """Errors of scripts, of the policy, and everything written to the console."""
        told = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in told]


@contextmanager
def opened(profile: Path) -> Iterator[Page]:
    """A browser with one empty tab; `profile` is a folder for its own files."""
    assert PROGRAM is not None, WITHOUT
    from_us, commands = os.pipe()
    answers, to_us = os.pipe()
    options = [
        "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
        "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "bash", PROGRAM, *options],
        pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    ) as browser:  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        try:
            with os.fdopen(commands, "wb") as writer, os.fdopen(answers, "rb") as reader:
                page = Page(writer, reader, browser)
                target = page.send("Target.createTarget", url="about:blank")["targetId"]
                page.session = page.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
                for domain in ("Page", "Runtime", "Network", "Log"):
                    page.send(f"{domain}.enable")
                page.send("Emulation.setFocusEmulationEnabled", enabled=True)
                yield page
            browser.terminate()
            browser.wait(timeout=20)
        finally:
            browser.kill()
