# The embedded demo model on vLLM's CPU build: what `make serve` sets up, in an image. For trying; GPUs take Dockerfile.
FROM python:3.11-slim-bookworm
RUN useradd --uid 2000 --gid 0 --create-home mooring \
    && install -d -o 2000 -g 0 -m 2775 /home/mooring/.cache /var/lib/mooring
WORKDIR /opt/mooring
COPY . .
RUN deploy/setup.sh && rm -rf /root/.cache /var/lib/apt/lists/*
ENV HOME=/home/mooring \
    MOORING_HISTORY=/var/lib/mooring/history.sqlite
USER 2000:0
VOLUME ["/home/mooring/.cache", "/var/lib/mooring"]
HEALTHCHECK --start-period=5m --interval=15s --timeout=5s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://localhost:8000/health', timeout=4)"]
EXPOSE 8000
ENTRYPOINT ["/opt/mooring/.venv/bin/mooring", "serve"]
CMD ["demo"]
