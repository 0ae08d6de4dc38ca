"""A headless browser over the DevTools pipe: trusted key presses, and what the page then shows."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A function of a page's root: the tags of what reaches past the window. What lies in a box that
# scrolls sideways by itself may, the box may not; so a rail on a phone is no fault, a wide one is.
STICKING_OUT = """(root => {
  const rolls = e => /auto|scroll/.test(
    root.ownerDocument.defaultView.getComputedStyle(e).overflowX);
  const framed = e => e !== root.ownerDocument.body && (rolls(e) || framed(e.parentElement));
  return [...root.querySelectorAll("body *")].filter(e => !e.matches(".skip-link")
    && e.getBoundingClientRect().right > root.clientWidth + 1 && !framed(e.parentElement))
    .map(e => e.outerHTML.slice(0, 80));
})"""


class Tab:
    """One page. ``errors`` collects exceptions and console errors."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._rest, self._number = write, read, b"", 0
        self.session = ""
        self.errors: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]  # type: ignore[no-any-return]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser went away"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        kind, params = message.get("method", ""), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params)[:400])
        if kind == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        return message

    def value(self, expression: str) -> Any:
        """What a JavaScript expression (or promise) gives."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A trusted key press on whatever has the focus."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code)  # fmt: skip


@contextmanager
def tab(browser: str, page: Path, width: int, height: int, profile: Path) -> Iterator[Tab]:
    """``page`` at a width that a window of its own could not have."""
    to_read, ours_write = os.pipe()
    ours_read, to_write = os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-quic"]
    # The browser speaks on its descriptors 3 and 4.
    shell = f'exec 3<&{to_read} 4>&{to_write}; exec "$0" "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, browser, *flags, "--remote-debugging-pipe",
         f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_read)
    os.close(to_write)
    try:
        one = Tab(ours_write, ours_read)
        target = one.call("Target.createTarget", url="about:blank")["targetId"]
        attached = one.call("Target.attachToTarget", targetId=target, flatten=True)
        one.session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            one.call(f"{domain}.enable")
        one.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
        one.call("Page.navigate", url=page.as_uri())
        one.value(
            "new Promise(done => { const look = () => document.readyState === 'complete' &&"
            " location.protocol === 'file:' ? setTimeout(done, 300) : setTimeout(look, 50);"
            " look(); })"
        )
        yield one
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(ours_write)
        os.close(ours_read)
