"""A minimal Lambda runtime for the Python handlers: asks the Runtime API for events until it is stopped.

    AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001 python bootstrap.py tuned

AWS's own client does the same and takes longer to import, so this flatters the Python handlers' cold start.
"""

import http.client
import importlib
import json
import os
import sys

BASE = "/2018-06-01/runtime/invocation"


def main():
    handler = importlib.import_module(sys.argv[1]).handler
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    while True:
        connection.request("GET", f"{BASE}/next")
        response = connection.getresponse()
        request_id = response.headers["Lambda-Runtime-Aws-Request-Id"]
        event = json.loads(response.read())
        try:
            path, answer = "response", handler(event, None)
        except Exception as error:
            path, answer = "error", {"errorType": type(error).__name__, "errorMessage": str(error)}
        connection.request("POST", f"{BASE}/{request_id}/{path}", json.dumps(answer).encode())
        connection.getresponse().read()


if __name__ == "__main__":
    main()
