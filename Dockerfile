# callstated in a container, with `callstate` for those who look after it.
#
#   docker build --tag callstate .
#   docker run --name callstate --stop-timeout 30 \
#     --volume callstate-run:/run/callstate --volume callstate-state:/var/lib/callstate callstate
#   docker exec callstate callstate ls
#
# Workers mount callstate-run too, and find the socket without being told. It is open to its own user only (mode 0600): they
# run as user 10001, or as root. Configuration: CALLSTATE_SECTION_KEY variables, or arguments of `docker run`.

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY systemd systemd/
COPY client client/
COPY sidecar sidecar/
RUN python -m venv /opt/callstate && /opt/callstate/bin/pip install --no-cache-dir '.[all]'

FROM python:3.13-slim
# With a number that manifests and workers can name. The directories belong to it, and so do volumes that begin empty.
RUN groupadd --gid 10001 callstate \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/callstate --shell /usr/sbin/nologin callstate \
    && install --directory --owner=callstate --group=callstate --mode=0750 /run/callstate \
    && install --directory --owner=callstate --group=callstate --mode=0700 /var/lib/callstate
COPY --from=build /opt/callstate /opt/callstate
ENV PATH=/opt/callstate/bin:$PATH \
    CALLSTATE_SERVER_SOCKET=/run/callstate/callstate.sock \
    CALLSTATE_SERVER_STATE_DIR=/var/lib/callstate
USER 10001:10001
# The journal outlives the container.
VOLUME ["/run/callstate", "/var/lib/callstate"]
# Whether the daemon answers. Not whether its store does: restarting this container would not mend that.
# The start replays the journal; after that an answer takes milliseconds.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["callstate", "health", "--live"]
ENTRYPOINT ["callstated"]
