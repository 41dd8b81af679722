"""`melanoma serve` as a process: many clients at once, a graceful end, and what can go wrong at its start."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from serving import serving

from melanoma.inference.predict import Predictor
from melanoma.runs import Run


def test_many_clients_at_once_get_the_offline_answers_or_503(judged: Run, lesions: list[Path]) -> None:
    chosen = lesions[:24]
    offline = [one.score for one in Predictor(judged.folder).answer(chosen, maps=False)]
    with serving(judged.folder, "--queue", 16) as service:

        def ask(number: int) -> tuple[int, float | None]:
            path = chosen[number % len(chosen)]
            with httpx2.Client(timeout=60) as client:
                response = client.post(f"{service.address}/predict", files={"images": (path.name, path.read_bytes())})
            answers = response.json().get("answers")
            return response.status_code, answers and answers[0]["score"]

        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(ask, range(240)))
    assert {status for status, _ in found} <= {200, 503}
    answered = [(score, offline[number % 24]) for number, (status, score) in enumerate(found) if status == 200]
    assert len(answered) > 24
    for score, expected in answered:
        assert score == (expected if expected is None else pytest.approx(expected, abs=1e-5))


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_is_under_way_is_answered_before_the_service_ends(
    judged: Run, lesions: list[Path], sign: signal.Signals
) -> None:
    content = lesions[0].read_bytes()
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    body = head + content + b"\r\n--x--\r\n"
    with serving(judged.folder) as service:
        address = urlsplit(service.address)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        connection.putrequest("POST", "/predict")
        connection.putheader("content-type", "multipart/form-data; boundary=x")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body[:100])
        time.sleep(0.3)
        service.process.send_signal(sign)
        time.sleep(0.5)
        connection.send(body[100:])
        assert connection.getresponse().status == 200
        connection.close()
        assert service.process.wait(30) == 0
        deadline = time.monotonic() + 5
        while "stopped\n" not in service.said and time.monotonic() < deadline:
            threading.Event().wait(0.05)
    assert service.said[-1] == "stopped\n"
    assert not [line for line in service.said if "Traceback" in line]


def test_a_body_that_does_not_come_does_not_keep_a_service_that_ends(judged: Run) -> None:
    with serving(judged.folder, first="import melanoma.web.app\nmelanoma.web.app.DRAIN_SECONDS = 1") as service:
        address = urlsplit(service.address)
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as client:
            kind = b"Host: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 999\r\n\r\n"
            client.sendall(b"POST /predict HTTP/1.1\r\n" + kind + b"--x\r\n")
            time.sleep(0.3)
            service.process.terminate()
            assert service.process.wait(15) == 0
            assert client.recv(4096).startswith(b"HTTP/1.1 503 ")


def test_a_name_that_is_not_this_machines_is_refused_where_it_listens_for_this_machine_alone(judged: Run) -> None:
    with serving(judged.folder) as service:
        for host, status in (("elsewhere.example", 421), ("localhost:1", 200)):
            assert httpx2.get(f"{service.address}/model", headers={"host": host}).status_code == status


def test_a_port_that_is_taken_a_wrong_model_and_a_wrong_limit_are_one_sentence(judged: Run, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, code, said in (
            (["--model", str(judged.folder), "--port", port], 1, "cannot be listened on"),
            (["--model", str(tmp_path)], 4, "neither a bundle nor a run"),
            (["--model", str(judged.folder), "--queue", "0"], 2, "--queue"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "melanoma", "serve", *arguments], capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout) == (code, "")
            assert said in done.stderr and "Traceback" not in done.stderr


def test_ipv6_is_listened_on_where_it_is_asked_for(judged: Run) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(judged.folder, "--host", "::1") as service:
        assert httpx2.get(f"{service.address}/health").json() == {"status": "ok"}
