"""The service under requests made from its own OpenAPI document, good and bad: each gets what the document promises."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("schemathesis", reason="the extra dev is not installed")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode
from zoo import saved, scene

from melanoma.inference.predict import Predictor
from melanoma.runs import Run
from melanoma.web.app import create_app

OPERATIONS = ["GET /health", "GET /ready", "GET /model", "GET /metrics", "POST /predict", "POST /explain"]


@pytest.fixture(scope="module")
def document(judged: Run, lesions: list[Path]) -> Any:
    """What the service says of itself; the pictures of good requests can be read."""
    pictures = [saved(scene(64, 64), "PNG"), *(path.read_bytes() for path in lesions[:3])]
    schemathesis.openapi.format("binary", st.sampled_from(pictures))
    load_all_checks()
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(Predictor(judged.folder), largest_bytes=2**20))


@pytest.mark.parametrize(
    ("name", "kind"),
    # where nothing is asked for, nothing can be wrong
    [*((name, "positive") for name in OPERATIONS), *((OPERATIONS[place], "negative") for place in (2, 4, 5))],
)
def test_every_answer_is_what_the_document_promises(document: Any, name: str, kind: str) -> None:
    operation = document.find_operation_by_label(name)
    # what no document can say: in a form all is text, so that a number is a good site, and blank is not known; and the
    # one picture of /explain is of any bytes here, most of them no picture's
    form = {"POST /predict": ["negative_data_rejection"]}
    form["POST /explain"] = [*form["POST /predict"], "positive_data_acceptance"]
    left_out = CHECKS.get_by_names(form.get(name, []))
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=200, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=GenerationMode(kind)))
    def asked(case: Any) -> None:
        response = case.call()
        statuses[response.status_code] += 1
        case.validate_response(response, excluded_checks=left_out)

    asked()
    assert max(statuses) < 500, "nothing else keeps it busy, so that 503 is none of its answers either"
    assert statuses[200 if kind == "positive" and name != "POST /explain" else 422] > 0


def test_every_address_of_the_document_is_asked(document: Any) -> None:
    assert [one.ok().label for one in document.get_all_operations()] == OPERATIONS
