import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoisezoo.errors import UserError
from denoisezoo.plans import Plan, load_plan


def test_effort_by_noise_level():
    plan = Plan((1.0, 0.25, 0.5), (-2.0, 3.0))
    assert [plan.effort(level) for level in (-1e9, -2.1, -2.0, 0.0, 2.9, 3.0, 1e9)] == [
        1.0, 1.0, 0.25, 0.25, 0.25, 0.5, 0.5,
    ]  # fmt: skip
    assert Plan((0.5,)).effort(0.0) == 0.5


@given(
    edges=st.lists(st.floats(-50, 50), unique=True, max_size=6).map(sorted),
    levels=st.lists(st.floats(-60, 60), max_size=5),
)
def test_json_keeps_every_effort(edges, levels):
    plan = Plan(tuple(float(i) for i in range(len(edges) + 1)), tuple(edges))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert [again.effort(x) for x in levels] == [sum(edge <= x for edge in edges) for x in levels]


def test_a_plan_for_another_network():
    plan = Plan((0.25, 1.0), (0.0,))
    plan.check((0.25, 0.5, 1.0))
    with pytest.raises(UserError, match=r"uses effort 0\.25, this one offers 1, 2"):
        plan.check((1.0, 2.0))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "no JSON"),
        ("[1]", "not a plan"),
        ('{"edges": []}', "0 efforts has 0 edges"),
        ('{"efforts": ["x"]}', "'x', which is no finite number"),
        ('{"efforts": ["0.5"]}', "'0.5', which is no finite number"),
        ('{"efforts": [true]}', "True, which is no finite number"),
        ('{"efforts": "12", "edges": "0"}', "efforts of a plan is no list"),
        ('{"efforts": {"0.5": 1}}', "efforts of a plan is no list"),
        ('{"efforts": [1, 2], "edges": [null]}', "edges of a plan has None"),
        ('{"efforts": [1' + 400 * "0" + "]}", "no finite number"),
        ("[" * 100_000, "no JSON"),
        ('{"efforts": []}', "0 efforts has 0 edges"),
        ('{"efforts": [1, 2], "edges": [0, 1]}', "2 efforts has 2 edges"),
        ('{"efforts": [1, 2, 3], "edges": [1, 0]}', "do not increase"),
        ('{"efforts": [1, NaN], "edges": [0]}', "nan, which is no finite number"),
        ('{"efforts": [1], "widths": []}', "no 'widths'"),
    ],
)
def test_what_is_no_plan(text, told, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as found:
        load_plan(path)
    assert str(path) in str(found.value)


def test_files(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"efforts": [0.5, 1], "edges": [0]}))
    assert load_plan(path) == Plan((0.5, 1.0), (0.0,))
    with pytest.raises(UserError, match="there is no plan"):
        load_plan(tmp_path / "nothing.json")
