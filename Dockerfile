# The book and its environment. PyTorch's wheels bring their own CUDA, so one image works with and
# without a GPU:
#   docker build -t annotated-ssd .
#   docker run --rm --gpus all -p 8888:8888 annotated-ssd     JupyterLab, with a token in its log
#   docker run --rm annotated-ssd test                        the tests, including every chapter
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}

# Libraries that OpenCV's wheel needs and a slim image lacks, and an init that reaps processes.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libxcb1 make tini \
 && rm -rf /var/lib/apt/lists/*

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video

# What changes least comes first: the lock (by far the largest layer), the package, the book. A
# changed chapter copies only a few files.
WORKDIR /home/reader/annotated-ssd
COPY requirements.txt ./
RUN pip install -r requirements.txt \
 && useradd --create-home --uid 1000 reader \
 && mkdir /data /runs \
 && chown reader:reader /home/reader /home/reader/annotated-ssd /data /runs

COPY --chown=reader:reader pyproject.toml README.md LICENSE ./
COPY --chown=reader:reader ssd_annotated ssd_annotated
RUN pip install --no-deps -e . && chown -R reader:reader .

COPY --chown=reader:reader . .
USER 1000

LABEL org.opencontainers.image.title="The Annotated SSD" \
      org.opencontainers.image.description="The Single Shot MultiBox Detector, derived, drawn, run, and proved equal to the code that trains" \
      org.opencontainers.image.licenses="MIT AND CC-BY-4.0"

EXPOSE 8888
# Only JupyterLab has a server to ask; any other command is as healthy as its process.
# hadolint ignore=DL3025
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD test ! -e "${TMPDIR:-/tmp}/serving" || python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8888/api', timeout=4)"
ENTRYPOINT ["tini", "--", "/home/reader/annotated-ssd/docker/entrypoint.sh"]
CMD ["lab"]
