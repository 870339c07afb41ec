# docker build -t lssvwm . && docker run --rm -v "$PWD/runs:/lssvwm/runs" lssvwm
# With CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 --build-arg KERNELS=cuda -t lssvwm .
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG KERNELS=

RUN apt-get update \
 && apt-get install -y --no-install-recommends make git gcc libc6-dev libosmesa6 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /lssvwm
COPY . .
RUN make setup ${KERNELS} TORCH_INDEX=${TORCH_INDEX}
ENV OMP_NUM_THREADS=1 PATH=/lssvwm/.venv/bin:$PATH
CMD ["make", "demo"]
