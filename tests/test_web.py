"""The service in process: its answers are the predictor's, and whatever goes wrong is a problem in JSON."""

import asyncio
import base64
import io
import json
import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient
from zoo import dicom, saved, scene

from melanoma.inference.predict import Predictor
from melanoma.inference.words import Details
from melanoma.runs import Run
from melanoma.web import forms
from melanoma.web.app import create_app
from melanoma.web.forms import plain_name

RESEARCH = "Research use only. Not a medical device. Not for diagnosis."
Part = tuple[str, tuple[str, bytes, str]]


@pytest.fixture(scope="module")
def predictor(judged: Run) -> Predictor:
    return Predictor(judged.folder)


@pytest.fixture(scope="module")
def app(predictor: Predictor) -> FastAPI:
    return create_app(predictor, largest_bytes=2**20)


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def part(content: bytes, name: str = "lesion.jpg", field: str = "images") -> Part:
    return field, (name, content, "image/jpeg")


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_predict_answers_as_the_predictor_does_in_the_order_of_the_pictures(
    client: TestClient, predictor: Predictor, lesions: list[Path]
) -> None:
    chosen = lesions[:9]
    response = client.post("/predict", files=[part(path.read_bytes(), path.name) for path in chosen])
    assert response.status_code == 200
    found = response.json()
    assert (found["model"], found["use"]) == ("drawn", RESEARCH)
    assert {name: found[name] for name in predictor.source} == predictor.source
    expected = predictor.answer(chosen, maps=False)
    for one, offline, path in zip(found["answers"], expected, chosen, strict=True):
        assert (one["name"], one["status"], one["label"]) == (path.name, offline.status, offline.label)
        if offline.probability is not None:
            assert one["probability"] == pytest.approx(offline.probability, abs=1e-6)


def test_what_is_known_of_the_patient_and_the_clinic_counts(
    client: TestClient, predictor: Predictor, lesions: list[Path]
) -> None:
    known = {"age_years": "85", "sex": "male", "site": "Head/Neck", "prevalence": "0.01"}
    (answer,) = client.post("/predict", files=[part(lesions[0].read_bytes())], data=known).json()["answers"]
    (offline,) = predictor.answer(lesions[0], Details(85, "male", "head/neck", 0.01), maps=False)
    assert offline.score is not None, "it is a lesion that is judged"
    assert answer["score"] == pytest.approx(offline.score, abs=1e-6)
    assert answer["probability"] == pytest.approx(offline.probability, abs=1e-6)


def test_a_blank_field_is_not_known(client: TestClient, lesions: list[Path]) -> None:
    blank = dict.fromkeys(("age_years", "sex", "site", "prevalence"), "")
    one, other = (client.post("/predict", files=[part(lesions[0].read_bytes())], data=data) for data in ({}, blank))
    assert one.json() == other.json()


def test_a_dicom_is_answered_as_its_pixels_are(client: TestClient, predictor: Predictor) -> None:
    pixels = np.random.default_rng(0).integers(60, 220, (96, 128, 3), dtype=np.uint8)
    files = [part(dicom(pixels.tobytes(), size=(96, 128)), "a.dcm"), part(saved(pixels, "PNG"), "a.png")]
    one, other = client.post("/predict", files=files).json()["answers"]
    assert (one["width"], one["height"]) == (128, 96)
    assert {**one, "name": ""} == {**other, "name": ""}
    assert "Jane" not in json.dumps(one)


def test_one_bad_picture_among_several_is_an_error_of_its_own_and_alone_a_problem(
    client: TestClient, lesions: list[Path]
) -> None:
    bad = part(b"<html>", "page.jpg")
    response = client.post("/predict", files=[bad, part(lesions[0].read_bytes())])
    assert response.status_code == 200
    assert [one["status"] == "error" for one in response.json()["answers"]] == [True, False]
    assert "page.jpg is no JPEG" in response.json()["answers"][0]["error"]
    assert "page.jpg is no JPEG" in problem(client.post("/predict", files=[bad]), 422)


def test_a_picture_that_is_no_lesion_is_not_assessable_with_its_reason(client: TestClient) -> None:
    (answer,) = client.post("/predict", files=[part(saved(scene(200, 200), "PNG"))]).json()["answers"]
    assert answer["status"] == "not assessable"
    assert answer["probability"] is None and answer["label"] is None
    assert answer["reasons"]


def test_explain_gives_the_map_that_the_predictor_gives(
    client: TestClient, predictor: Predictor, lesions: list[Path]
) -> None:
    response = client.post("/explain", files=[part(lesions[1].read_bytes(), field="image")])
    assert response.status_code == 200
    found = response.json()
    (offline,) = predictor.answer(lesions[1])
    assert offline.activation_map is not None
    np.testing.assert_allclose(found["map"], offline.activation_map, atol=1e-5)
    sizes = {name: picture(found[name]).size for name in ("picture_png", "image_png", "map_png")}
    assert sizes["image_png"] == sizes["map_png"] == (32, 32)
    assert sizes["picture_png"][0] == sizes["picture_png"][1], "it is cut to what the network saw"
    assert picture(found["map_png"]).mode == "RGBA"
    assert found["use"] == RESEARCH


def test_explain_gives_one_picture_where_one_is_asked_for(client: TestClient, lesions: list[Path]) -> None:
    files = [part(lesions[1].read_bytes(), field="image")]
    response = client.post("/explain", files=files, headers={"accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).width > 1000


def picture(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content)))


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def problem(response: Any, status: int) -> str:
    """The sentence of a problem, checked to be one that a program can read."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert set(content) == {"title", "status", "detail"} and content["status"] == status
    return str(content["detail"])


LESION = saved(scene(64, 64), "JPEG")
FORM = {"content-type": "multipart/form-data; boundary=x"}
BEGUN = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({"json": {"image": "a.jpg"}}, 415, "send multipart/form-data"),
        ({}, 415, "send multipart/form-data"),
        ({"files": [part(LESION, field="file")]}, 422, "pictures go in the field images"),
        ({"files": [part(LESION), part(LESION, field="other")]}, 422, "pictures go in the field images"),
        ({"files": [part(b"")]}, 422, "is empty"),
        ({"files": [part(LESION)] * 33}, 400, "Maximum number of files is 32"),
        ({"files": [part(LESION)], "data": {f"f{n}": "1" for n in range(2000)}}, 400, "Too many fields"),
        ({"files": [part(LESION)], "data": {"site": "x" * 2000}}, 400, "Part exceeded maximum size of 1KB"),
        ({"files": [part(LESION)], "data": {"age_years": "old"}}, 422, "age_years is a number"),
        ({"files": [part(LESION)], "data": {"age_years": "nan"}}, 422, "an age is from 0 to 120"),
        ({"files": [part(LESION)], "data": {"age_years": "1e999"}}, 422, "an age is from 0 to 120"),
        ({"files": [part(LESION)], "data": {"prevalence": "1"}}, 422, "a prevalence is a share"),
        ({"files": [part(LESION)], "data": {"sex": "x"}}, 422, "sex is female or male"),
        ({"files": [part(LESION)], "data": {"colour": "red"}}, 422, "there is no field 'colour'"),
        ({"files": [part(bytes(2**20))]}, 413, "over 1 MiB"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "no multipart/form-data"),
        ({"content": b"no parts at all", "headers": FORM}, 400, "no multipart/form-data"),
        ({"content": b"--x\r\n\r\nno name\r\n--x--", "headers": FORM}, 400, "no multipart/form-data"),
        ({"content": b"", "headers": FORM}, 422, "pictures go in the field images"),
        ({"content": BEGUN + LESION, "headers": FORM}, 400, "breaks off before its closing boundary"),
        ({"content": BEGUN + LESION + b"\r\n" + BEGUN + LESION + b"\r\n--", "headers": FORM}, 400, "breaks off"),
        ({"content": BEGUN + LESION + b"--", "headers": FORM}, 400, "breaks off"),
        ({"content": b"--x--", "headers": {"content-type": b"multipart/form-data; boundary=\xe4"}}, 400, "multipart"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_is_told_why(
    client: TestClient, request_: dict[str, Any], status: int, said: str
) -> None:
    assert said in problem(client.post("/predict", **request_), status)


def test_what_follows_the_closing_boundary_is_no_matter(client: TestClient) -> None:
    for behind in (b"", b"\r\n", b"\r\n" * 20, b"\r\nan epilogue"):
        body = BEGUN + LESION + b"\r\n--x--" + behind
        assert len(client.post("/predict", content=body, headers=FORM).json()["answers"]) == 1


def test_explain_takes_one_picture(client: TestClient) -> None:
    files = [part(LESION, field="image")] * 2
    assert "Maximum number of files is 1" in problem(client.post("/explain", files=files), 400)


def asked(
    app: FastAPI, messages: Iterable[dict[str, Any]], kind: bytes = b"multipart/form-data; boundary=x"
) -> list[Any]:
    """What the service sends to a client that sends these messages, and then nothing for a minute."""
    sent: list[Any] = []
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        if message := next(coming, None):
            return message
        await asyncio.sleep(60)
        raise AssertionError("nobody waited so long")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/predict",
        "raw_path": b"/predict", "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80), "headers": [(b"content-type", kind)],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return sent


def test_a_body_without_a_length_is_counted_as_it_comes_and_not_read_to_its_end(app: FastAPI) -> None:
    given = 0

    def body() -> Iterator[dict[str, Any]]:
        nonlocal given
        yield {"type": "http.request", "body": BEGUN, "more_body": True}
        for _ in range(1000):
            given += 1
            yield {"type": "http.request", "body": bytes(2**16), "more_body": True}

    assert asked(app, body())[0]["status"] == 413
    assert given == 16


def test_a_body_that_does_not_come_in_time_is_given_up(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "BODY_SECONDS", 0.1)
    assert asked(app, [])[0]["status"] == 408


def test_unknown_addresses_and_methods_are_problems_too(client: TestClient) -> None:
    problem(client.get("/nowhere"), 404)
    problem(client.get("/predict"), 405)
    problem(client.get("/../../etc/passwd"), 404)
    assert "prevalence" in problem(client.get("/model", params={"prevalence": "x"}), 422)


def test_a_bug_is_told_without_its_details_and_logged_by_its_place(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("patient Jane")

    with TestClient(create_app(predictor)) as client:
        monkeypatch.setattr(predictor, "answer_batch", broken)
        response = client.post("/predict", files=[part(LESION)])
        said = problem(response, 500)
        assert 'status="500"' in client.get("/metrics").text
    assert "bug" in said and "Jane" not in said
    assert response.headers["x-content-type-options"] == "nosniff"
    logged = capfd.readouterr().err
    assert "ZeroDivisionError in " in logged and "Jane" not in logged


def test_a_client_that_leaves_while_it_sends_is_no_bug(app: FastAPI, capfd: pytest.CaptureFixture[str]) -> None:
    sent = asked(app, [{"type": "http.request", "body": b"--x", "more_body": True}, {"type": "http.disconnect"}])
    assert sent[0]["status"] == 400
    assert not capfd.readouterr().err


def test_what_a_client_that_left_still_waited_for_is_not_worked_on(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, held, answering = threading.Semaphore(0), threading.Event(), predictor.answer_batch
    judged: list[str] = []

    def slow(items: Any, maps: bool = False) -> Any:
        judged.extend(name for name, _, _ in items)
        begun.release()
        held.wait(30)
        return answering(items, maps)

    monkeypatch.setattr(predictor, "answer_batch", slow)
    with TestClient(create_app(predictor)) as client, ThreadPoolExecutor(8) as pool:
        busy = []
        for _ in range(predictor.threads):
            busy.append(pool.submit(client.post, "/predict", files=[part(LESION, "stays")]))
            begun.acquire(timeout=30)
        request = client.build_request("POST", "/predict", files=[part(LESION, "left")] * 5)
        body = {"type": "http.request", "body": request.read(), "more_body": False}
        kind = request.headers["content-type"].encode()
        sent = asked(client.app, [body, {"type": "http.disconnect"}], kind)  # type: ignore[arg-type]
        held.set()
        assert [one.result().status_code for one in busy] == [200] * len(busy)
        assert client.post("/predict", files=[part(LESION, "later")]).status_code == 200
    assert sent[0]["status"] == 400
    assert set(judged) == {"stays", "later"}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\lesions\\a.jpg", "a.jpg"), (None, "picture"), ("", "picture"),
        ("a\r\nset-cookie: b", "a??set-cookie: b"), ("x" * 400, "x" * 120),
        ("<img src=x onerror=1>", "<img src=x onerror=1>"),
    ],
)  # fmt: skip
def test_a_files_name_is_one_short_line_and_never_a_path(given: str | None, shown: str) -> None:
    assert plain_name(given) == shown


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_pictures_that_do_not_fit_into_the_queue_get_503_and_when_to_come_again(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, answering = threading.Event(), predictor.answer_batch

    def slow(*given: Any) -> Any:
        held.wait(30)
        return answering(*given)

    monkeypatch.setattr(predictor, "answer_batch", slow)
    with TestClient(create_app(predictor, queue=2)) as client, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client.post, "/predict", files=[part(LESION)] * 2) for _ in range(12)]
        while not any(one.done() for one in asked):
            threading.Event().wait(0.01)
        assert client.get("/health").status_code == 200, "a full queue does not make the service deaf"
        held.set()
        responses = [one.result() for one in asked]
    assert {one.status_code for one in responses} == {200, 503}
    refused = next(one for one in responses if one.status_code == 503)
    assert refused.headers["retry-after"] == "2"
    assert "try again" in problem(refused, 503)


def test_requests_that_are_held_in_memory_at_once_have_a_limit() -> None:
    memory = forms.Memory(100)
    with memory.shared() as one:
        one.take(60)
        with pytest.raises(forms.ProblemError, match="too much"), memory.shared() as other:
            other.take(50)
        assert memory.held == 60
    assert memory.held == 0


def test_who_sends_most_makes_room_for_who_sends_less() -> None:
    memory, ended = forms.Memory(100), []

    async def sending(*amounts: int) -> None:
        with memory.shared() as share:
            try:
                async with share.arrival(60):
                    for amount in amounts:
                        share.take(amount)
                    await asyncio.sleep(60)  # and no more comes
            except forms.ProblemError as error:
                ended.append((sum(amounts), error.status))

    async def healthy() -> None:
        slow = [asyncio.create_task(sending(amount, amount)) for amount in (20, 15, 10)]
        await asyncio.sleep(0)
        assert memory.held == 90
        with memory.shared() as small, memory.shared() as large:
            async with small.arrival(60), large.arrival(60):
                small.take(15)
                assert memory.held == 65  # the largest has left
                await asyncio.sleep(0.01)
                assert ended == [(40, 503)]
                with pytest.raises(forms.ProblemError, match="too much"):
                    large.take(50)
                small.take(5)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(healthy())
    assert ended == [(40, 503)]
    assert memory.held == 0


def test_the_same_picture_gets_the_same_answer_alone_and_among_others(client: TestClient, lesions: list[Path]) -> None:
    alone = client.post("/predict", files=[part(lesions[0].read_bytes())]).json()["answers"][0]
    among = client.post("/predict", files=[part(path.read_bytes()) for path in lesions[:12]]).json()["answers"][0]
    assert among["score"] == pytest.approx(alone["score"], abs=1e-6)


# ---- what is told --------------------------------------------------------------------------------------------------


def test_model_tells_figures_limits_and_operating_points_for_a_prevalence(
    client: TestClient, predictor: Predictor
) -> None:
    facts = client.get("/model").json()
    figures = predictor.bundle.description["figures"]
    assert facts["auc"] == figures["auc"] and facts["limits"] == figures["limits"]
    assert facts["licence"] == "CC0 1.0" and facts["use"] == RESEARCH
    assert facts["control_auc"]["value"] > 0
    assert facts["max_images"] == 32 and facts["max_bytes"] == 2**20
    rarer = client.get("/model", params={"prevalence": 0.001}).json()
    for one, other in zip(facts["operating_points"], rarer["operating_points"], strict=True):
        assert other["probability"] < one["probability"]


def test_what_a_point_is_worth_goes_with_the_prevalence_that_is_asked_for(client: TestClient) -> None:
    points = client.get("/model", params={"prevalence": 0.02}).json()["operating_points"]
    assert points
    for point in points:
        found, passed = (point[name]["value"] for name in ("sensitivity", "specificity"))
        called = 0.02 * found + 0.98 * (1 - passed)
        assert point["prevalence"] == 0.02
        assert point["ppv"] == pytest.approx(0.02 * found / called)
        assert point["number_needed_to_biopsy"] == pytest.approx(called / (0.02 * found))


def test_health_and_readiness_are_told(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}


def test_metrics_count_requests_and_pictures_and_know_nothing_of_anybody(predictor: Predictor) -> None:
    with TestClient(create_app(predictor)) as client:
        client.post("/predict", files=[part(LESION, "Jane Doe.jpg")] * 3, data={"site": "torso"})
        client.get("/somewhere/else/Jane")
        text = client.get("/metrics").text
    assert 'melanoma_requests_total{path="/predict",status="200"} 1.0' in text
    assert 'melanoma_requests_total{path="other",status="404"} 1.0' in text
    assert sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("melanoma_pictures_total")) == 3
    assert "Jane" not in text and "torso" not in text


def test_nothing_of_a_request_is_logged(
    client: TestClient, lesions: list[Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    data = {"age_years": "61", "sex": "female", "site": "torso"}
    client.post("/predict", files=[part(lesions[0].read_bytes(), "Jane Doe.jpg")], data=data)
    client.post("/predict", files=[part(b"broken", "Jane Doe.jpg")], data=data)
    client.post("/predict", content=b"no parts of Jane", headers=FORM)
    printed = capfd.readouterr()
    logged = [record for record in caplog.records if record.name != "httpx2"]  # the test's own client
    assert not logged and "Jane" not in printed.out + printed.err


def test_openapi_describes_every_address_with_its_body_and_problems(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/health", "/ready", "/model", "/metrics", "/predict", "/explain"}
    for path, field in (("/predict", "images"), ("/explain", "image")):
        described_post = described["paths"][path]["post"]
        schema = described_post["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert schema["required"] == [field]
        assert set(schema["properties"]) == {field, "age_years", "sex", "site", "prevalence"}
        assert {"400", "413", "415", "422", "503"} <= set(described_post["responses"])


def test_the_page_asks_nobody_else_and_every_answer_keeps_to_itself(client: TestClient) -> None:
    for path in ("/", "/page.js", "/page.css"):
        response = client.get(path)
        assert response.status_code == 200
        for outside in ("http://", "https://", "//cdn", "@import", "url("):
            assert outside not in response.text.replace("http://www.w3.org/2000/svg", "")
    for response in (client.get("/"), client.get("/model"), client.get("/nowhere")):
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
    assert RESEARCH in client.get("/").text
