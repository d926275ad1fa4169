# The book and its environment: docker build -t annotated-ssd . && docker run --rm -p 8888:8888 annotated-ssd
# Add --gpus all where there is a GPU. JupyterLab prints the address, with its token, when it starts.
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}

# What OpenCV's wheel expects of the system, and a slim image lacks.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libxcb1 make \
 && rm -rf /var/lib/apt/lists/*

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /home/reader/annotated-ssd
# The lock first: this layer, the large one, is kept until the lock changes.
COPY requirements.txt ./
RUN pip install -r requirements.txt

RUN useradd --create-home --uid 1000 reader && chown reader:reader /home/reader /home/reader/annotated-ssd
COPY --chown=reader:reader . .
RUN pip install --no-deps -e .
USER 1000

EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser", "--notebook-dir=book"]
