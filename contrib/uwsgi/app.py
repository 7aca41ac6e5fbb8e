"""The smallest WSGI app: says which commit it is."""

import os


def application(environ, start_response):
    body = os.environ.get("BGD_COMMIT", "unknown").encode() + b"\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
