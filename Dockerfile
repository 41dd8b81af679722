# The service in a container, by the model that comes with the package or by any bundle, mounted:
#   docker build -t melanoma .
#   docker run --rm -p 8000:8000 melanoma
#   docker run --rm -p 8000:8000 -v "$PWD/runs/NAME/model:/model:ro" melanoma --model /model
FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY requirements ./requirements
COPY melanoma ./melanoma
# every file is known by its hash
RUN pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: -r requirements/core.txt \
        -r requirements/serve.txt -r requirements/openvino.txt -r requirements/dicom.txt \
    && pip install --no-cache-dir --no-deps --no-build-isolation --no-index . \
    && useradd --system --no-create-home melanoma
USER melanoma

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=3)"]
# SIGTERM lets what is under way be finished, within 30 seconds: `docker stop --timeout 40`, as its own wait is shorter
ENTRYPOINT ["melanoma", "serve", "--host", "0.0.0.0"]
