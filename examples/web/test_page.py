"""Opens the built page in headless Chromium and lets it read: the pictures of the reference, a dropped
picture, a typed text, a drawn word, a camera's frames. Standard library only.

    test_page.py SITE READER_DATA [--chromium PROGRAM] [--screenshot FILE]

SITE is the folder that build.sh made. READER_DATA has streams.safetensors and casa/outputs.safetensors.
"""

import argparse
import base64
import difflib
import functools
import http.server
import json
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import zlib


def read_safetensors(path):
    """Tensors of a file as (flat list or bytes, shape), by name; those of integers alone."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "U8":
            tensors[name] = data[begin:end], entry["shape"]
        elif entry["dtype"] == "I64":
            tensors[name] = struct.unpack(f"<{(end - begin) // 8}q", data[begin:end]), entry["shape"]
    return tensors


class Chromium:
    """A browser that is told what to do through a pair of pipes (the DevTools protocol)."""

    def __init__(self, program, *options):
        self.profile = tempfile.mkdtemp(prefix="casa-web-")
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        # The browser reads from descriptor 3 and writes to 4.
        redirect = f'exec "$@" 3<&{from_us} 4>&{to_us}'
        self.process = subprocess.Popen(
            ["sh", "-c", redirect, "sh", program, "--headless", "--no-sandbox", "--disable-gpu",
             "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "--window-size=1200,900",
             *options, "about:blank"],
            pass_fds=(from_us, to_us), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(from_us)
        os.close(to_us)
        self.write, self.read, self.buffer, self.number = to_browser, from_browser, b"", 0
        self.events = set()
        target = self.call("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True},
                                 None)["sessionId"]
        self.call("Page.enable")

    def call(self, method, params=None, session=""):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = self.session
        todo = json.dumps(message).encode() + b"\0"
        while todo:
            todo = todo[os.write(self.write, todo):]
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def receive(self):
        while b"\0" not in self.buffer:
            part = os.read(self.read, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(message)
        self.events.add(message.get("method"))
        return message

    def open(self, url):
        self.events.clear()
        self.call("Page.navigate", {"url": url})
        while "Page.loadEventFired" not in self.events:
            self.receive()

    def run(self, expression):
        """The value of a JavaScript expression, once its promise is kept."""
        result = self.call("Runtime.evaluate", {"expression": expression, "awaitPromise": True,
                                                "returnByValue": True})
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def draw(self, selector, strokes):
        """Draws with the mouse on an element; points are shares of its width and height."""
        left, top, width, height = self.run(
            f"(r => [r.left, r.top, r.width, r.height])(document.querySelector('{selector}').getBoundingClientRect())")

        def mouse(kind, point, **more):
            self.call("Input.dispatchMouseEvent", {"type": kind, "x": left + point[0] * width,
                                                   "y": top + point[1] * height, "button": "left", **more})

        for first, *rest in strokes:
            mouse("mousePressed", first, clickCount=1)
            for point in rest:
                mouse("mouseMoved", point, buttons=1)
            mouse("mouseReleased", rest[-1], clickCount=1)

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        try:
            self.call("Browser.close", session=None)
        except (RuntimeError, OSError):
            pass
        self.process.wait(30)
        shutil.rmtree(self.profile, ignore_errors=True)


class Site:
    """Serves a folder on a free port; `cut` shortens what it says of a file."""

    def __init__(self, folder):
        self.cut = {}
        site = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                size = site.cut.get(self.path)
                if size is None:
                    return super().do_GET()
                with open(os.path.join(folder, self.path.lstrip("/")), "rb") as file:
                    data = file.read(size)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def end_headers(self):
                self.send_header("Cache-Control", "no-store")
                super().end_headers()

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def png(pixels, side):
    """A grey picture as a PNG file."""
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data +
                struct.pack(">I", zlib.crc32(kind + data)))

    rows = b"".join(b"\0" + pixels[y * side:(y + 1) * side] for y in range(side))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_video(path, pixels, side, times=4):
    """A YUV4MPEG2 file of one picture, enlarged, which Chromium takes for a camera."""
    big = side * times
    luma = b"".join(bytes(16 + pixels[y // times * side + x // times] * 219 // 255
                          for x in range(big)) for y in range(big))
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{big} H{big} F30:1 Ip A1:1 C420jpeg\n".encode())
        for _ in range(3):
            file.write(b"FRAME\n" + luma + bytes([128]) * (big * big // 2))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("site")
    arguments.add_argument("data")
    arguments.add_argument("--chromium", default="chromium")
    arguments.add_argument("--screenshot")
    arguments = arguments.parse_args()

    streams = read_safetensors(os.path.join(arguments.data, "streams.safetensors"))
    outputs = read_safetensors(os.path.join(arguments.data, "casa", "outputs.safetensors"))
    images, (count, side, _) = streams["images"]
    begins = set(streams["stream_begin"][0])
    ids, (_, width) = outputs["greedy.ids"]
    lengths = outputs["greedy.len"][0]
    with open(os.path.join(arguments.site, "model", "config.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)["vocab"]
    end = vocabulary.index("<end>")
    picture = [images[i * side * side:(i + 1) * side * side] for i in range(count)]
    expected = [list(ids[i * width + 1:i * width + lengths[i]]) for i in range(count)]  # after <start>
    text = ["".join(vocabulary[i] for i in caption if i != end) for caption in expected]

    failures = 0

    def check(what, ok, detail=""):
        nonlocal failures
        failures += not ok
        print(f"{'ok    ' if ok else 'FAILED'}  {what}{'' if ok else ': ' + str(detail)}", flush=True)

    site = Site(arguments.site)
    video = tempfile.NamedTemporaryFile(suffix=".y4m")
    write_video(video.name, picture[0], side)
    browser = Chromium(arguments.chromium, "--use-fake-ui-for-media-stream",
                       "--use-fake-device-for-media-stream",
                       f"--use-file-for-fake-video-capture={video.name}")

    def until(condition):
        """Waits until a JavaScript condition holds; false when it does not for long."""
        return browser.run("(async () => { for (let i = 0; i < 600; ++i) {"
                           f" if ({condition}) return true;"
                           " await new Promise(go => setTimeout(go, 100)); } return false; })()")

    try:
        browser.open(site.url)
        browser.run("page.ready")
        fonts = browser.run("new Set(greyPixels()).size > 2")
        if fonts:
            check("the page reads what stands in its box",
                  until("!page.reading() && page.text().length > 5"), browser.run("page.text()"))
        else:
            print("skipped typed text: this machine has no font", flush=True)

        check("nothing covers the picture", browser.run(
            "(r => document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2).tagName === 'CANVAS')"
            "(document.querySelector('#frame').getBoundingClientRect())"))

        # Every picture of the reference, in streams: the ids are those of greedy decoding in float64.
        wrong, heads_ok, ahead, steps = [], True, 0, 0
        for i in range(count):
            read = browser.run(f"""(() => {{
              const letters = page.readPixels(
                Uint8Array.from(atob('{base64.b64encode(picture[i]).decode()}'), c => c.charCodeAt(0)),
                {json.dumps(i in begins)});
              const across = page.patches();
              return letters.map(l => {{
                const w = page.shownWeights(l.maps);
                const sum = w.reduce((a, b) => a + b, 0);
                return [l.id, w.reduce((a, b, k) => a + b * (k % across), 0) / sum,
                        l.maps.every(x => x >= 0 && x <= 1)];
              }});
            }})()""")
            got = [letter[0] for letter in read]
            if got != expected[i]:
                wrong.append((i, got, expected[i]))
            heads_ok = heads_ok and all(letter[2] for letter in read)
            for a, b in zip(read, read[1:]):
                if "\n" not in (vocabulary[a[0]], vocabulary[b[0]]) and b[0] != end:
                    steps += 1
                    ahead += b[1] > a[1]
        check(f"{count} pictures in {len(begins) - 1} streams: the letters of the reference", not wrong,
              wrong[:3])
        check("the weights of attention maps lie in [0, 1]", heads_ok)
        print(f"        from letter to letter the map goes right in {ahead} of {steps} steps", flush=True)
        check("the map follows the letters", ahead > 0.9 * steps, f"{ahead} of {steps}")

        # A picture dropped on the page comes to the model as it is.
        browser.run(f"""(() => {{
          const bytes = Uint8Array.from(atob('{base64.b64encode(png(picture[0], side)).decode()}'),
                                        c => c.charCodeAt(0));
          const carried = new DataTransfer();
          carried.items.add(new File([bytes], 'picture.png', {{type: 'image/png'}}));
          dispatchEvent(new DragEvent('drop', {{dataTransfer: carried, cancelable: true}}));
        }})()""")
        check("a dropped picture is read", until(f"page.text() === {json.dumps(text[0])} && !page.reading()"),
              browser.run("page.text()"))
        browser.run("choose(3)")
        if arguments.screenshot:
            browser.screenshot(arguments.screenshot)

        # What is typed, in a font of this machine: unseen, so not every letter need be right.
        if fonts:
            typed = "Take 12 eggs,\n3 lemons and\na little salt"
            browser.run(f"document.querySelector('[data-source=type]').click();"
                        f"document.querySelector('#text').value = {json.dumps(typed)};"
                        "document.querySelector('#text').dispatchEvent(new Event('input'))")
            near = "page.text().length > 20 && page.text().includes('\\n') && !page.reading()"
            until(near)
            read = browser.run("page.text()")
            share = difflib.SequenceMatcher(None, typed, read, False).ratio()
            check(f"typed text is read, {share:.2f} of it", share > 0.8, repr(read))
        check("the speed is shown", browser.run("parseFloat(document.querySelector('#rate').textContent) > 0"))

        browser.run("document.querySelector('[data-source=draw]').click()")
        browser.draw("#frame", [
            [(.10, .40), (.24, .40)], [(.17, .40), (.17, .64)],                          # T
            [(.43, .40), (.29, .40), (.29, .64), (.43, .64)], [(.29, .52), (.40, .52)],  # E
            [(.48, .64), (.48, .40), (.62, .64), (.62, .40)]])                           # N
        check("a drawn word is read", until("page.text() === 'TEN' && !page.reading()"), browser.run("page.text()"))

        browser.run("document.querySelector('[data-source=camera]').click()")
        check("the camera is read", until(f"page.text() === {json.dumps(text[0])}"),
              browser.run("[page.text(), document.querySelector('#status').textContent]"))

        # A model that did not arrive whole is an error of the library's, and the page says it.
        site.cut["/model/model.safetensors"] = 1 << 20
        browser.open(site.url + "?cut")
        browser.run("page.ready.catch(() => {})")
        said = browser.run("document.querySelector('#status').textContent")
        check("a file cut short is named with what is wrong",
              "model.safetensors" in said and "data_offsets" in said, said)
    finally:
        browser.close()
        site.server.shutdown()
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
