# RegionSpot with all that caching, training, evaluation and recognition need.
#
#   docker build --tag regionspot .
#   docker run --rm --gpus all --volume "$PWD:/work" regionspot quickstart
#
# By default torch comes with CUDA, which also runs on a CPU (leave out --gpus). For a smaller image
# without CUDA, give the address of PyTorch's index of CPU wheels (see pytorch.org):
#
#   docker build --build-arg TORCH_INDEX=ADDRESS --tag regionspot-cpu .
FROM python:3.12-slim

ARG TORCH_INDEX=""
ARG EXTRAS="extract,eval,toy,transformers"

COPY pyproject.toml constraints.txt README.md LICENSE /regionspot/
COPY src /regionspot/src
WORKDIR /regionspot
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-cache-dir --constraint constraints.txt --index-url "$TORCH_INDEX" \
        torch torchvision; \
    fi \
    && pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]"

WORKDIR /work
ENTRYPOINT ["regionspot"]
