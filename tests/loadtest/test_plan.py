import numpy as np

from loadtest import plan


def test_a_plan_survives_its_file(tmp_path):
    offered = plan.plan("127.0.0.1:9000", 2.5, np.array([0.0, 0.125]), (b"\x00\xff", b""))
    plan.save(tmp_path / plan.PLAN_FILE, offered)
    assert plan.load(tmp_path / plan.PLAN_FILE) == offered
    assert offered.due_s == (0.0, 0.125)
