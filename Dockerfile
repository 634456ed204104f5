# Mooring on vLLM's own image: docker build -t mooring . && docker run --gpus all -p 8000:8000 mooring Qwen/Qwen3-32B
#
# Drop-in: the entrypoint and its arguments are those of vllm/vllm-openai, `vllm serve`, and that name is here
# `mooring serve` (deploy/image/vllm). vLLM's version is exact, because Mooring refuses any other.
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

FROM ${VLLM_IMAGE} AS build
WORKDIR /src
COPY . .
RUN uv build --wheel --out-dir /dist .

FROM ${VLLM_IMAGE}
LABEL org.opencontainers.image.title="Mooring" \
      org.opencontainers.image.description="vLLM's OpenAI-compatible server with activation capping" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.base.name="docker.io/vllm/vllm-openai:v0.32.0"

# --no-deps: the image has what Mooring needs, at vLLM's versions; psycopg is for a history in PostgreSQL.
COPY --from=build /dist /tmp/dist
RUN uv pip install --system --no-deps --no-cache /tmp/dist/*.whl psycopg==3.3.9 psycopg-binary==3.3.9 \
    && rm -r /tmp/dist
COPY --chmod=755 deploy/image/vllm /opt/mooring/bin/vllm

# As root, or as any user of group 0 (vLLM's image has one: --user 2000:0), these can be written.
RUN install -d -o 2000 -g 0 -m 2775 /var/lib/mooring /home/vllm/.cache /home/vllm/.triton \
    && mooring doctor

# VLLM_PLUGINS: whatever else starts vLLM in this image has Mooring's checks, and stops where nothing is capped.
ENV PATH=/opt/mooring/bin:${PATH} \
    MOORING_HISTORY=/var/lib/mooring/history.sqlite \
    VLLM_PLUGINS=lora_filesystem_resolver,lora_hf_hub_resolver,mooring

# Models and compiled graphs (~/.cache: huggingface, vllm, mooring), kernels (~/.triton), and the history.
VOLUME ["/root/.cache", "/root/.triton", "/home/vllm/.cache", "/home/vllm/.triton", "/var/lib/mooring"]

# With another --port, set PORT to it. Loading a large model takes its time.
HEALTHCHECK --start-period=30m --interval=15s --timeout=5s --retries=4 \
    CMD ["/bin/sh", "-c", "exec curl --fail --silent --show-error http://localhost:${PORT:-8000}/health"]

EXPOSE 8000
ENTRYPOINT ["vllm", "serve"]
