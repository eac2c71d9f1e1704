"""A small driver of headless Chromium, by its DevTools protocol.

The protocol is spoken through two pipes, so that neither a driver program nor
a library is needed: messages are JSON, each ended by a null byte. What is used
of it is in https://chromedevtools.github.io/devtools-protocol/.
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, Optional

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0  # seconds, for one answer of a busy machine

# What the browser is started through: it has its pipes at 3 and 4.
LAUNCH = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(ours[0], 3)
os.dup2(ours[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--disable-extensions", "--disable-dev-shm-usage", "--mute-audio"),
    "--remote-debugging-pipe",
)


def find() -> Optional[str]:
    """The path of a Chromium of this machine."""
    found = (shutil.which(name) for name in NAMES)
    return next((path for path in found if path), None)


class BrowserError(Exception):
    """The browser refused a command, or a script in the page failed."""


class Browser:
    """One tab of a Chromium of its own.

    :ivar errors: what the console had to say of errors since ``open``
    """

    def __init__(self, path: str) -> None:
        self.errors: List[str] = []
        self._profile = tempfile.mkdtemp(prefix="pdpyras-chromium-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        options = [*OPTIONS, "--user-data-dir=" + self._profile]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out)]
            + [path, *options, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers = itertools.count(1)
        self._pending = b""
        self._session = ""
        self._events: List[str] = []
        self._attach()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the browser, and remove what it has written."""
        try:
            self._session = ""
            self.call("Browser.close")
            self._process.wait(10)
        except (BrowserError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _attach(self) -> None:
        page = self.call("Target.createTarget", url="about:blank")
        attached = self.call(
            "Target.attachToTarget", targetId=page["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(domain + ".enable")

    def call(self, method: str, **params: Any) -> Dict[str, Any]:
        """Give a command, and wait for what becomes of it."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            received = self._receive()
            if received.get("id") == number:
                if "error" in received:
                    raise BrowserError(method, received["error"])
                return dict(received["result"])

    def _receive(self) -> Dict[str, Any]:
        """The next message; events are noted on the way."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._pending:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._in], [], [], left)[0]:
                raise BrowserError(f"no answer within {PATIENCE} s")
            read = os.read(self._in, 1 << 20)
            if not read:
                raise BrowserError("the browser has ended")
            self._pending += read
        message, _, self._pending = self._pending.partition(b"\0")
        received: Dict[str, Any] = json.loads(message.decode())
        self._note(received)
        return received

    def _note(self, received: Dict[str, Any]) -> None:
        method = received.get("method", "")
        params = received.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.errors += self._serious(params["type"], params["args"])
        elif method == "Log.entryAdded":
            entry = params["entry"]
            self.errors += self._serious(entry["level"], entry)

    @staticmethod
    def _serious(level: str, content: Any) -> List[str]:
        return [json.dumps(content)] if level in ("error", "assert") else []

    def open(self, url: str) -> None:
        """Load a page, and wait until it has come to rest."""
        del self.errors[:], self._events[:]
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise BrowserError(url, answer["errorText"])
        while "loaderId" in answer and "Page.loadEventFired" not in (
            self._events
        ):
            self._receive()

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise BrowserError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def look(self, width: int, scheme: str) -> None:
        """Make the window so wide, in pixels, and ``light`` or ``dark``."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text="\r" if key == "Enter" and kind == "keyDown" else "",
            )

    def picture(self, path: str, height: int = 0) -> None:
        """Save what is to be seen; with ``height``, of so much of the page."""
        extra: Dict[str, Any] = {}
        if height:
            width = self.run("innerWidth")
            extra["captureBeyondViewport"] = True
            extra["clip"] = {
                "x": 0,
                "y": 0,
                "width": width,
                "height": height,
                "scale": 1,
            }
        answer = self.call("Page.captureScreenshot", format="png", **extra)
        with open(path, "wb") as file:
            file.write(base64.b64decode(answer["data"]))
