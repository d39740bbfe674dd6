# `worker`, and the commands about models.
#
#     docker build --file deploy/worker.Dockerfile --tag dreamforge-worker:0.1.0 .
#
# torch, torchvision, CUDA and cuDNN are those of the base image; everything else is the group `worker`
# of pyproject.toml in the versions of constraints.txt, in a virtual environment over the base's Python.
# The base has the torch that constraints.txt pins, built for CUDA 13.0: Turing to Blackwell, driver 580
# or newer. For older cards: --build-arg BASE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime.
ARG BASE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime

FROM ${BASE} AS packages
ARG PIP_VERSION=26.3
RUN python3 -m venv --system-site-packages --without-pip /opt/dreamforge \
    && python3 -m pip --python /opt/dreamforge/bin/python install --no-cache-dir pip==${PIP_VERSION}
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# The last line: another torch in the environment would hide the base's and add gigabytes, and a torchvision
# of another build than torch's cannot be imported, which breaks transformers too.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/dreamforge/bin/python -m pip install --constraint constraints.txt --group worker \
    && /opt/dreamforge/bin/python -c "import torch, torchvision; assert not torch.__file__.startswith('/opt/dreamforge') and torch.version.cuda, torch.__file__" \
    && /opt/dreamforge/bin/python -m pip uninstall --yes pip

FROM ${BASE} AS wheel
WORKDIR /build
COPY pyproject.toml LICENSE README.md ./
COPY models models
COPY migrations migrations
COPY src src
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM ${BASE}
LABEL org.opencontainers.image.title="Dream Forge worker" \
      org.opencontainers.image.description="GPU worker of a self-hosted render fabric" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# The two folders are there, and ours, so that a new volume mounted on them is ours as well.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dreamforge \
    && install --directory --owner 10001 --group 10001 /models /locks
COPY --from=packages /opt/dreamforge /opt/dreamforge
# A layer of its own, and all that a change of our sources makes anew. The link: the model that ships with
# the project, at a place that does not name Python's version.
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    python3 -m pip --python /opt/dreamforge/bin/python install --no-cache-dir --no-deps /wheel/*.whl \
    && ln --symbolic /opt/dreamforge/lib/python3.*/site-packages/models /opt/dreamforge/models
ENV PATH=/opt/dreamforge/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    DF_MODELS_DIR=/models \
    DF_LOCK_DIR=/locks
USER 10001:10001
WORKDIR /srv
EXPOSE 8002
ENTRYPOINT ["dreamforge"]
CMD ["worker"]
