# naa-fast on the CPU:  docker build -t naa-fast .
#   docker run --rm -v "$PWD:/work" naa-fast scan --model net.py:build --weights net.safetensors --clean clean.npz --suspect suspect.npz
# A model's code is run, so give the container no network and nothing it need not see:  --network none --read-only --tmpfs /tmp
FROM python:3.12-slim
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY naa_fast naa_fast
COPY kernels kernels
# The CPU build of torch first: the package index's own brings gigabytes of CUDA.
RUN pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu \
        --extra-index-url https://pypi.org/simple torch \
    && pip install --no-cache-dir -c constraints.txt ".[hf,vision,parquet,demo]" \
    && rm -rf /src/*
# By number, so that a host can see that it is not root.
RUN useradd --create-home --uid 10001 naa
USER 10001
WORKDIR /work
ENV MPLCONFIGDIR=/tmp NUMBA_CACHE_DIR=/tmp HF_HUB_OFFLINE=1
ENTRYPOINT ["naa-fast"]
CMD ["--help"]
