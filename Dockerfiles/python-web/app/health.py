"""Exits with 0 when the service answers."""

import sys
import urllib.request

port = sys.argv[1] if len(sys.argv) > 1 else "8080"
with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
    sys.exit(answer.status != 200)
