"""What surrounds every request: the headers that every answer carries, HEAD, and who may ask at all."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from starlette.testclient import TestClient
from zoo import saved, scene

from melanoma.inference.predict import Predictor
from melanoma.runs import Run
from melanoma.web.app import FILES, create_app
from melanoma.web.around import HEADERS

NAMES = {"localhost", "127.0.0.1", "::1"}
PICTURE = {"files": {"images": ("a.png", saved(scene(64, 64), "PNG"))}}


@pytest.fixture(scope="module")
def predictor(judged: Run) -> Predictor:
    return Predictor(judged.folder)


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    """Asks a service that listens on this machine alone."""
    with TestClient(create_app(predictor, names=NAMES), base_url="http://localhost:8000") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "address", "options", "status"),
    [
        *(("GET", address, {}, 200) for address in (*FILES, "/health", "/ready", "/metrics", "/openapi.json")),
        ("HEAD", "/", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("GET", "/health/", {}, 404),
        ("HEAD", "/nowhere", {}, 404),
        ("GET", "/predict", {}, 405),
        ("DELETE", "/", {}, 405),
        ("OPTIONS", "/predict", {}, 405),
        ("GET", "/model?prevalence=2", {}, 422),
        ("POST", "/predict", {"json": {}}, 415),
        ("POST", "/predict", {"headers": {"sec-fetch-site": "cross-site"}}, 403),
        ("POST", "/predict", {"headers": {"host": "elsewhere.example"}}, 421),
        ("POST", "/predict", PICTURE, 200),
        ("POST", "/explain", PICTURE, 422),
    ],
)  # fmt: skip
def test_every_answer_carries_the_headers_that_keep_it_to_itself(
    client: TestClient, method: str, address: str, options: dict[str, Any], status: int
) -> None:
    response = client.request(method, address, **options)
    assert response.status_code == status
    assert {name: response.headers.get_list(name) for name in HEADERS} == {
        name: [value] for name, value in HEADERS.items()
    }
    assert not {"server", "access-control-allow-origin", "set-cookie"} & set(response.headers)


@pytest.mark.parametrize("address", [*FILES, "/health", "/ready", "/model"])
def test_head_tells_what_get_would_without_a_body(client: TestClient, address: str) -> None:
    asked, told = client.get(address), client.head(address)
    assert told.status_code == 200 and told.content == b""
    assert told.headers == asked.headers
    assert int(told.headers["content-length"]) == len(asked.content) > 0


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("localhost", True), ("localhost:8000", True), ("LOCALHOST:1", True), ("127.0.0.1:8000", True),
        ("[::1]:8000", True), ("elsewhere.example", False), ("elsewhere.example:8000", False),
        ("localhost.elsewhere.example", False), ("127.0.0.1.elsewhere.example", False), ("192.168.1.9:8000", False),
        ("localhost@elsewhere.example", False), ("[::1", False), ("", False),
    ],
)  # fmt: skip
def test_a_service_on_this_machine_alone_answers_to_the_names_of_this_machine_alone(
    client: TestClient, host: str, answered: bool
) -> None:
    for method, address in (("GET", "/model"), ("HEAD", "/"), ("POST", "/predict")):
        response = client.request(method, address, headers={"host": host})
        assert (response.status_code != 421) == answered
    if not answered:
        refused = client.get("/model", headers={"host": host})
        assert refused.json()["detail"].startswith("this service answers to 127.0.0.1, ::1, localhost alone")


def test_a_service_for_other_machines_answers_to_any_name(predictor: Predictor) -> None:
    with TestClient(create_app(predictor)) as client:
        assert client.get("/model", headers={"host": "lesions.clinic.example"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program, no browser
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "http://LOCALHOST:8000"}, 200),
        ({"origin": "http://elsewhere.example"}, 403),
        ({"origin": "http://localhost:9000"}, 403),
        ({"origin": "null"}, 403),
        # behind a proxy that asks by another name; the browser knows
        ({"origin": "https://lesions.clinic.example", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://localhost:8000", "sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_another_sites_page_may_not_send_pictures_in_whatever_way_the_browser_says_so(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    response = client.post("/predict", headers=headers, **PICTURE)
    assert response.status_code == status
    if status == 403:
        assert "another site" in response.json()["detail"]
