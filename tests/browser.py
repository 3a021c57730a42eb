"""A headless Chromium, driven through a pipe: https://chromedevtools.github.io/devtools-protocol."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip
# It reads from descriptor 3 and writes to 4.
LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 120  # seconds for an answer, also of a machine that does other things

Message = dict[str, Any]


def program() -> str | None:
    """The browser's path; None if there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """One process; `open` shows a file, and everything else is about that."""

    def __init__(self, path: str, profile: Path) -> None:
        # What we write and it reads, and what it writes and we read.
        ours, theirs = os.pipe(), os.pipe()
        handed = (str(ours[0]), str(theirs[1]))
        command = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *handed, *command], pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read = ours[1], theirs[0]
        self._waiting, self._number, self._session, self._target = b"", 0, "", ""
        self.events: list[Message] = []

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self._write)
        os.close(self._read)

    def command(self, method: str, **parameters: object) -> Message:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: Message = answer["result"]
        return result

    def open(self, file: Path, width: int = 1200, height: int = 900, *, dark: bool = False) -> None:
        self._session = ""
        if self._target:
            self.command("Target.closeTarget", targetId=self._target)
        target = self._target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.events.clear()
        self.command("Page.navigate", url=file.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, or what it promises."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def problems(self) -> list[str]:
        """Errors of the page, and addresses that it asked for besides itself and its own data."""
        found = []
        for event in self.events:
            told, method = event.get("params", {}), event.get("method")
            if method == "Runtime.exceptionThrown":
                found.append(str(told["exceptionDetails"]))
            elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
                found.append(told["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
                found.append(str(told["args"]))
            elif method == "Network.requestWillBeSent":
                address = told["request"]["url"]
                if not address.startswith(("data:", "blob:")) and told.get("type") != "Document":
                    found.append(f"a request for {address}")
        return found

    def _next(self) -> Message:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._waiting:
            if not select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            self._waiting += os.read(self._read, 2**20)
        line, _, self._waiting = self._waiting.partition(b"\0")
        message: Message = json.loads(line)
        return message
