"""A Chromium without a window, told what to do over its own protocol: enough to click through a page."""

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions "
    "--disable-background-networking --disable-component-update --disable-sync --disable-default-apps "
    "--hide-scrollbars --remote-debugging-port=0"
).split()


def find_chromium():
    "Its path; None where there is none."
    return next(filter(None, map(shutil.which, NAMES)), None)


def awaited(path, pattern, process, seconds):
    "Where a process's output, a file, fits a pattern; `AssertionError` where it ends before, or is late."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        alive = process.poll() is None
        text = Path(path).read_text(errors="replace")
        if found := re.search(pattern, text):
            return found
        assert alive, f"ended with {process.returncode}: {text[-800:]}"
        time.sleep(0.05)
    raise AssertionError(f"{seconds} s passed without {pattern!r}: {text[-800:]}")


def end(process, seconds=15):
    "Ask a process to end; make it end where it does not."
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Browser:
    "One page. Everything that it asks the network for is in `asked`."

    def __init__(self, folder, width=1400, height=1100):
        words = [find_chromium(), *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"]
        self.numbers = itertools.count(1)
        self.asked, self.errors = [], []
        self.socket, self.session = None, None
        Path(folder).mkdir(parents=True, exist_ok=True)
        with open(Path(folder) / "said.txt", "w") as said:
            self.process = subprocess.Popen([*words, "about:blank"], stdout=said, stderr=said)
        try:
            found = awaited(said.name, r"(ws://127\.0\.0\.1:\d+/\S+)\s", self.process, 30)
            self.begin(found[1], width, height)
        except BaseException:
            self.close()
            raise

    def begin(self, address, width, height):
        "A page of its own, all of whose requests are noted."
        import websocket

        self.socket = websocket.create_connection(address, timeout=30, suppress_origin=True, max_size=None)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")
        slower = "requestAnimationFrame = f => setTimeout(() => f(performance.now()), 100)"
        self.call("Page.addScriptToEvaluateOnNewDocument", source=slower)  # there is no graphics card
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method, **given):
        "One command and its answer; what happens meanwhile is noted."
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": given}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        late = time.monotonic() + 30
        while time.monotonic() < late:
            heard = json.loads(self.socket.recv())
            if heard.get("method") == "Network.requestWillBeSent":
                self.asked.append(heard["params"]["request"]["url"])
            if heard.get("method") == "Runtime.exceptionThrown":
                self.errors.append(heard["params"]["exceptionDetails"].get("text", ""))
            if heard.get("id") == number:
                assert "error" not in heard, (method, heard["error"])
                return heard["result"]
        raise AssertionError(f"30 s passed without an answer to {method}")

    def open(self, address):
        self.call("Page.navigate", url=address)

    def run(self, script):
        "The value of an expression on the page."
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, (script, told["exceptionDetails"])
        return told["result"].get("value")

    def wait(self, script, seconds=20):
        "Until an expression is true; its value."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.1)
        raise AssertionError(f"{seconds} s passed: {script}")

    def give_file(self, script, path):
        "Put a file into the input that an expression names."
        made = self.call("Runtime.evaluate", expression=script)["result"]
        assert "objectId" in made, f"no such input: {script}"
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=made["objectId"])

    def shot(self, path, **clip):
        "A picture of the page."
        more = {"clip": clip | {"scale": 1}} if clip else {}
        data = self.call("Page.captureScreenshot", format="png", **more)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        if self.socket:
            self.socket.close()
        end(self.process)
