# The operator's image. Any base with Python 3.11 or newer and its venv module will do:
#   podman build --build-arg BASE=... -t partymq .
ARG BASE=docker.io/library/python:3.13-slim
FROM ${BASE}

# kopf wants to know who it runs as, so the user needs a name.
RUN useradd --uid 65532 --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin partymq \
 && python3 -m venv /venv

WORKDIR /build

# The dependencies alone: this layer is built again only when they change.
COPY pyproject.toml ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" >dependencies.txt \
 && /venv/bin/pip install --no-cache-dir --disable-pip-version-check -r dependencies.txt

COPY README.md LICENSE ./
COPY operator ./operator
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps . \
 && rm -rf /build/*

WORKDIR /
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["/venv/bin/partymq"]
CMD ["operator"]
