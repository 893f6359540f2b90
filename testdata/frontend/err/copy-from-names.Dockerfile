FROM busybox AS a
COPY --from=$X / /
COPY --from=7 / /
COPY --from=-1 / /
COPY --from=Bad/Name / /
