from pathlib import Path

import numpy as np

from loadtest import plan
from serve.client.connection import Connection


def test_a_plan_survives_its_file(tmp_path):
    connection = Connection("127.0.0.1:9000", ca=Path("ca.pem"), cert=Path("cert.pem"), key=Path("key.pem"))
    offered = plan.plan(connection, 2.5, np.array([0.0, 0.125]), (b"\x00\xff", b""))
    plan.save(tmp_path / plan.PLAN_FILE, offered)
    assert plan.load(tmp_path / plan.PLAN_FILE) == offered
    assert offered.connection == connection
    assert offered.due_s == (0.0, 0.125)


def test_a_token_is_not_written(tmp_path):
    plan.save(tmp_path / plan.PLAN_FILE, plan.plan(Connection("127.0.0.1:1", token="s3cret"), 1.0, np.zeros(1), (b"",)))
    assert b"s3cret" not in (tmp_path / plan.PLAN_FILE).read_bytes()
