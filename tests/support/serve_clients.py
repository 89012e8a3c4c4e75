"""Clients that others made, against `taskbasis serve`: OpenAI's, and Schemathesis, which asks what the description allows
and forbids.

usage: serve_clients.py TASKBASIS BUNDLE IMAGE [EXAMPLES]

TASKBASIS is the program, BUNDLE one with heads, IMAGE an image file. Needs the packages openai, schemathesis and numpy.
"""

import base64
import contextlib
import json
import os
import subprocess
import sys
import urllib.request

import numpy as np
import openai

# What a description cannot say of expressions and images: that they are there and can be read.
NOT_DESCRIBED = "positive_data_acceptance"


@contextlib.contextmanager
def serving(program, bundle):
    """The address of a server, which is then ended, and has to end well."""
    command = [program, "serve", bundle, "--bind", "127.0.0.1:0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line == "}\n":
                break
        yield json.loads("".join(lines))["url"]
    finally:
        server.terminate()
        status = server.wait(60)
    if status != 0:
        raise SystemExit(f"the server ended with {status}")


def ask(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def check_openai(url, image):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    data = base64.b64encode(image).decode()
    url_of = f"data:image/png;base64,{data}"
    expected = ask(url, "/v1/embed", {"weights": "all@0.2", "images": [data, data]})["embeddings"]
    expected = np.array(expected, np.float32)
    for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = client.embeddings.create(model=" all @ 0.2", input=[url_of, url_of], **form)
        values = [one.embedding for one in found.data]
        if form.get("encoding_format") == "base64":
            values = [np.frombuffer(base64.b64decode(value), "<f4") for value in values]
        np.testing.assert_array_equal(np.array(values, np.float32), expected, str(form))
        assert [one.index for one in found.data] == [0, 1] and found.model == "all@0.2", found
    assert len(client.embeddings.create(model="base", input=url_of).data) == 1
    for kind, request, part in (
        (openai.NotFoundError, {"model": "no_such_task", "input": url_of}, "no_such_task"),
        (openai.BadRequestError, {"model": "base", "input": "a text"}, "data URL"),
        (openai.BadRequestError, {"model": "base", "input": url_of, "dimensions": 3}, "dimensions"),
        (openai.UnprocessableEntityError, {"model": "base", "input": "data:image/png;base64,aGVsbG8="}, "images[0]"),
    ):
        try:
            client.embeddings.create(**request)
        except kind as error:
            assert part in str(error), error
        else:
            raise SystemExit(f"{request} is not refused")
    print("openai", openai.__version__, "gets the same embeddings, and errors that it knows")


def check_schema(url, examples):
    command = [os.path.join(os.path.dirname(sys.executable), "schemathesis"), "run", f"{url}/openapi.json"]
    command += ["--checks", "all", "--exclude-checks", NOT_DESCRIBED, "--max-examples", str(examples)]
    command += ["--generation-deterministic", "--continue-on-failure", "--warnings", "off", "--request-timeout", "30"]
    subprocess.run(command, check=True)
    with urllib.request.urlopen(f"{url}/readyz") as ready:
        assert ready.status == 200


def main():
    program, bundle, image = sys.argv[1:4]
    examples = int(sys.argv[4]) if len(sys.argv) > 4 else 50
    with open(image, "rb") as file:
        image = file.read()
    with serving(program, bundle) as url:
        check_openai(url, image)
        check_schema(url, examples)


if __name__ == "__main__":
    main()
