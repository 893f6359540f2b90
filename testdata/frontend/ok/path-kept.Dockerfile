FROM busybox
RUN env
FROM scratch
ENV PATH=/own
COPY a /a
