FROM busybox AS base
ONBUILD COPY --from=later / /
FROM base
RUN x
FROM busybox AS later
FROM busybox
COPY --from=1 / /
