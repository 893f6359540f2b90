FROM busybox
COPY --from=later / /
COPY --from=2 / /
FROM busybox AS later
FROM busybox
COPY --from=0 / /
