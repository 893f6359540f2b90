#> context=dep=directory
FROM full AS dep
RUN expensive
FROM busybox
COPY --from=dep /x /x
RUN --mount=from=dep,target=/dep true
FROM dep
RUN true
