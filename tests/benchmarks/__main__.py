"""Every performance claim as a ratio within one run: ``make bench``, about a quarter of an hour."""

import subprocess
import sys

CLAIMS = {
    "export": "an export, cold and cached, and its winner against PyTorch eager",
    "batcher": "the batcher against calling its session directly",
    "serve": "gRPC through the service against a bare grpc.aio server, other ways to serve, and the model alone",
    "score": "scoring against bare sessions in a loop",
    "loadtest": "the load generator against a closed-loop client",
}


def main() -> None:
    """Run each benchmark in a process of its own, one after the other."""
    for name, claim in CLAIMS.items():
        print(f"\n== {claim}", flush=True)
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=True, timeout=1800)


if __name__ == "__main__":
    main()
