# CPU: docker build -t tessera .        CUDA: docker build --build-arg EXTRA=cuda -t tessera . (run with --gpus all)
FROM python:3.11-slim
ARG EXTRA=""
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /tessera
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY research research
COPY experiments experiments
COPY configs configs
RUN pip install --no-cache-dir -c constraints.txt -e ".${EXTRA:+[$EXTRA]}"
CMD ["tessera", "--help"]
