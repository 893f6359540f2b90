"""A web service that counts words.

GET /            says what it is
GET /health      says that it works
POST /count      the number of each word of the text sent, as JSON
"""

import collections
import getpass
import http.server
import json
import re
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            self.answer(200, {"service": "word count", "user": getpass.getuser()})
        elif self.path == "/health":
            self.answer(200, {"ok": True})
        else:
            self.answer(404, {"error": f"nothing at {self.path}"})

    def do_POST(self):
        if self.path != "/count":
            return self.answer(404, {"error": f"nothing at {self.path}"})
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        words = collections.Counter(re.findall(r"\w+", text.lower()))
        self.answer(200, dict(sorted(words.items())))

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    port = int(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("", port), Handler)
    print(f"listening on port {server.server_address[1]}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("bye")


if __name__ == "__main__":
    main()
