from benchmarks import farm


def test_the_share_of_scheduling_is_what_lies_beyond_the_waiting(monkeypatch):
    monkeypatch.setattr(farm, "SECONDS", 0.02)
    monkeypatch.setattr(farm, "TASKS", 5)
    found = farm.cost(None, 1)
    assert found["seconds_waiting"] == 0.1 <= found["seconds"]
    assert found["share_of_scheduling_%"] >= 0.0
