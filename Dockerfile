# mkdir -p runs && docker build -t lssvwm . && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/lssvwm/runs" lssvwm
# With CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 --build-arg KERNELS=cuda -t lssvwm .
# and docker run --gpus all --shm-size 2g ...
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG KERNELS=

RUN apt-get update \
 && apt-get install -y --no-install-recommends make git gcc libc6-dev libosmesa6 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /lssvwm
COPY . .
# What pip downloads stays with the builder, for the next build, and out of the image.
RUN --mount=type=cache,target=/root/.cache/pip make setup ${KERNELS} TORCH_INDEX=${TORCH_INDEX} && mkdir -m 1777 runs
# Whichever user runs it: caches of what is imported go where that one can write.
ENV OMP_NUM_THREADS=1 PATH=/lssvwm/.venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1
CMD ["make", "demo"]
