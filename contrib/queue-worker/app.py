"""The smallest app that puts jobs into a queue: GET /job/NAME. Anything else says which commit it is."""

import http.server
import os
import pathlib
import signal
import threading

COMMIT = os.environ.get("BGD_COMMIT", "unknown")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/job/"):
            # Written whole under another name first: the worker never sees half a job.
            name = pathlib.Path(self.path).name
            new = pathlib.Path("jobs", f".{name}")
            new.write_text("")
            new.rename(pathlib.Path("jobs", name))
        body = f"{COMMIT}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
# At TERM: no new requests, and the threads finish theirs.
server.daemon_threads = False
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
