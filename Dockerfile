# The tool in a container: CPU by default, CUDA with `--build-arg TORCH_BACKEND=cu128` (torch's wheel brings CUDA itself, so
# that the host needs the driver and `--gpus all` alone).
#
#   docker build -t dreampose .
#   docker run --rm -v "$PWD:/work" -v dreampose-cache:/cache --user "$(id -u):$(id -g)" dreampose demo
ARG PYTHON=3.13
FROM python:${PYTHON}-slim AS build
ARG TORCH_BACKEND=cpu
WORKDIR /source
RUN pip install --no-cache-dir uv==0.13.9
COPY pyproject.toml hatch_build.py constraints.txt README.md LICENSE ./
COPY src src
RUN uv build --wheel --out-dir /dist . \
    && uv venv /opt/dreampose \
    && uv pip install --no-cache --python /opt/dreampose --torch-backend "${TORCH_BACKEND}" -c constraints.txt /dist/*.whl

FROM python:${PYTHON}-slim
COPY --from=build /opt/dreampose /opt/dreampose
ENV PATH=/opt/dreampose/bin:$PATH \
    DREAMPOSE_CACHE=/cache/dreampose \
    HF_HOME=/cache/huggingface \
    HOME=/cache
# Whoever runs the container owns what it writes: the cache is open to any user id.
RUN install -d -m 1777 /cache
VOLUME /cache
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["dreampose"]
CMD ["--help"]
