"""Many clients at once, for a while, against the demo's page with a stand-in behind it: what is answered, how
fast, and how much memory the server takes.

python tests/load_demo.py            64 clients for 60 seconds
python tests/load_demo.py 16 5       16 for 5
"""

import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import numpy as np
from browser import awaited, end
from PIL import Image

HERE = Path(__file__).resolve().parent


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def served(port, errors=None, **variables):
    "The page over a stand-in, in a process of its own."
    command = [sys.executable, str(HERE / "demo_stand_in.py"), str(port)]
    own = {"cwd": HERE.parent, "env": os.environ | variables}
    with tempfile.NamedTemporaryFile("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=errors, **own)
        try:
            awaited(said.name, "shows the page", process, 120)
            yield process
        finally:
            end(process)


def memory_of(pid):
    "MiB that a process holds now."
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@cache
def png(size=(384, 512)):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@cache
def layer():
    pixels = np.zeros((512, 384, 4), np.uint8)
    pixels[150:400, 90:290] = (232, 89, 12, 150)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Visitor:
    "One client: what it asks, and what it was told."

    def __init__(self, web, told):
        self.web, self.told = web, told

    async def heard(self, response):
        self.told["status", response.status_code] += 1
        return response

    async def upload(self, name, data):
        files = {"files": (name, data, "application/octet-stream")}
        response = await self.heard(await self.web.post("/gradio_api/upload", files=files))
        if response.status_code != 200:
            return None
        return {"path": response.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    async def ask(self, name, *values):
        "'complete' or 'error', and what was said."
        start = time.perf_counter()
        body = {"data": list(values)}
        response = await self.heard(await self.web.post(f"/gradio_api/call/{name}", json=body))
        if response.status_code != 200:
            return "refused", response.text
        event = ""
        async with self.web.stream("GET", f"/gradio_api/call/{name}/{response.json()['event_id']}") as stream:
            await self.heard(stream)
            async for line in stream.aiter_lines():
                if line.startswith("event:"):
                    event = line.removeprefix("event:").strip()
                elif line.startswith("data:") and event in ("complete", "error"):
                    self.told["seconds", name].append(time.perf_counter() - start)
                    self.told["answers", name, event] += 1
                    return event, json.loads(line.removeprefix("data:").strip())
        return "ended", None

    async def visit(self, until):
        "One round, and others while there is time."
        photo = await self.upload("me.png", png())
        brush = await self.upload("brush.png", layer())
        editor = {"background": None, "layers": [brush], "composite": None}
        settings = (4, 3.0, 0)
        while True:
            await self.ask("search", "red dress", None, 8)
            await self.ask("search", "", photo, 8)
            hostile = await self.upload("text.png", b"I am a text")
            await self.ask("search", "", hostile, 8)
            await self.ask("caption", photo)
            await self.ask("try_on", photo, None, editor, "upper_body", photo, *settings)
            await self.ask("search", "", {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, 8)
            if time.perf_counter() >= until:
                break


class Told(dict):
    def __missing__(self, key):
        return self.setdefault(key, [] if key[0] == "seconds" else 0)


async def load(port, clients, seconds, pid):
    "What was told, and the server's memory, MiB, twice a second."
    told, memory = Told(), []
    until = time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits, trust_env=False
    ) as web:

        async def watch():
            while True:
                memory.append(memory_of(pid))
                await asyncio.sleep(0.5)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(Visitor(web, told).visit(until) for _ in range(clients)))
        watching.cancel()
        response = await web.get("/")
        told["alive",] = response.status_code
    return told, memory


def report(told, memory):
    lines = [f"status {key[1]}: {told[key]}" for key in sorted(told) if key[0] == "status"]
    for key in sorted(told):
        if key[0] == "answers":
            lines.append(f"{key[1]:8s} {key[2]:9s} {told[key]}")
    for key in sorted(told):
        if key[0] == "seconds":
            half, most = np.percentile(told[key], (50, 95))
            lines.append(f"{key[1]:8s} half within {half:.2f} s, 95 % within {most:.2f} s")
    third = max(1, len(memory) // 3)
    middle, end = np.mean(memory[third : 2 * third]), np.mean(memory[-third:])
    lines.append(
        f"memory: {memory[0]:.0f} MiB at the start, {middle:.0f} in the middle, {end:.0f} at the end, "
        f"{max(memory):.0f} at most"
    )
    return "\n".join(lines)


def statuses(told):
    return Counter({key[1]: told[key] for key in told if key[0] == "status"})


if __name__ == "__main__":
    clients, seconds = map(int, sys.argv[1:3]) if len(sys.argv) == 3 else (64, 60)
    port = free_port()
    with served(port) as process:
        told, memory = asyncio.run(load(port, clients, seconds, process.pid))
    print(f"{clients} clients, {seconds} s")
    print(report(told, memory))
    sys.exit(any(status >= 500 for status in statuses(told)) or told["alive",] != 200)
