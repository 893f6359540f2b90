FROM busybox AS unused
RUN true
FROM busybox AS used
RUN made
FROM full AS also
FROM busybox
RUN --mount=from=used,target=/u --mount=type=tmpfs,from=also,target=/t true
