"""Call a protected service with the stock tritonclient, in a process of its own since two stubs of the protocol cannot share one.

``python -m tests.e2e.triton_secured ADDRESS MODEL CA CERT KEY`` reads a token from stdin and prints what came back as JSON.
"""

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def main(address: str, model: str, ca: str, cert: str, key: str) -> None:
    token = sys.stdin.read()
    tensor = triton.InferInput("x", X.shape, "FP32")
    tensor.set_data_from_numpy(X)
    with triton.InferenceServerClient(
        address, ssl=True, root_certificates=ca, certificate_chain=cert, private_key=key
    ) as client:
        answer = client.infer(model, [tensor], headers={"authorization": f"Bearer {token}"}, client_timeout=20)
        try:
            client.infer(model, [tensor], client_timeout=20)
        except InferenceServerException as error:
            refused = error.status()
    sys.stdout.write(json.dumps([answer.as_numpy("y").tolist(), refused]))


if __name__ == "__main__":
    main(*sys.argv[1:])
